// SPDX-License-Identifier: Apache-2.0
// The block codings' loops without vector instructions: the definition for the other levels.
#include "codec/kernels_block_common.h"

namespace weightfs::codec {

const BlockKernels kScalarBlockKernels = plain_block_kernels(Level::kScalar);

}  // namespace weightfs::codec
