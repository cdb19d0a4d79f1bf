// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "chain/catalog.h"
#include "chain/shown_state.h"
#include "chain/snapshot.h"
#include "io/files.h"
#include "model/model_folder.h"

namespace weightfs {

/// Over sizes and times of the base's files as they were when it was opened.
uint64_t base_stamp(const ModelFolder& base);
/// Whether that is the base of what was shown: what was accepted on another one may have other bytes on this one.
bool is_of_base(const Snapshot& snapshot, const ShownState& former);
/// The state of a mount that shows `catalog` and follows nothing.
ShownState state_of(const Catalog& catalog);

/// What open_source() gives depends on all that lies in the source now: a file that came since may refuse what was
/// admitted without it, or change what it builds on.  This is `opened` with the versions that were accepted, as they
/// were then, as far as their files are still there; of published formats without any other.  What is shown, followed
/// and decoded must all come from the result; done twice it is the same snapshot.
std::shared_ptr<const Snapshot> restored(const Files& files, const SourceOptions& options,
                                         const std::shared_ptr<const Snapshot>& opened, const ShownState& former);

/// Of a restored snapshot what was shown.  `latest` is the version that it was, or the newest that is shown.
Catalog resumed(const std::shared_ptr<const Snapshot>& snapshot, const ShownState& former);
/// Of a restored snapshot all that was shown at any time and that somebody may still have open.
Catalog served(const std::shared_ptr<const Snapshot>& snapshot, const ShownState& former);

}  // namespace weightfs
