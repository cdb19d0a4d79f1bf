# SPDX-License-Identifier: Apache-2.0
"""Lets a torchvision that was built for a GPU be imported beside a CPU build of torch: SGLang imports it at its start.

The operators of torchvision's own library, which does not load there, are declared and have no code.
"""

import importlib.abc
import importlib.metadata
import sys

OPERATORS = [name + backward for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
             for backward in ("", "_backward")]


class BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None and "+cpu" not in importlib.metadata.version("torchvision"):
                self.library = torch.library.Library("torchvision", "DEF")
                for operator in ["nms", "qnms", *OPERATORS]:
                    operator = f"_{operator}" if operator.endswith("_backward") else operator
                    self.library.define(f"{operator}(Tensor any) -> Tensor")
                KEPT.append(self)
        return None


KEPT = []
sys.meta_path.insert(0, BeforeTorchvision())
