// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weightfs {

/// Every way in which weightfs can refuse something.  The text id is stable: scripts, tests and log
/// scanners may rely on it.  Columns: enumerator, text id, errno that a reader sees, meaning.
#define WEIGHTFS_ERROR_CODES(X)                                                                                  \
  X(kInternal, "internal", EIO, "a broken assumption inside weightfs; please report it")                         \
  X(kUsage, "usage", EINVAL, "the command line is wrong")                                                        \
  X(kIoOpen, "io.open_failed", EIO, "a file cannot be opened")                                                   \
  X(kIoRead, "io.read_failed", EIO, "a file cannot be read")                                                     \
  X(kIoWrite, "io.write_failed", EIO, "a file cannot be written")                                                \
  X(kIoNotAFile, "io.not_a_file", EIO, "a regular file was expected")                                            \
  X(kIoChanged, "source.changed", EIO, "a file of the source changed or was replaced after it was admitted")     \
  X(kIoTruncated, "io.truncated", EIO, "a file ended before the bytes that were promised")                       \
  X(kHeaderTooSmall, "safetensors.header_too_small", EIO, "fewer than 8 bytes")                                  \
  X(kHeaderTooLarge, "safetensors.header_too_large", EIO, "header over 100,000,000 bytes")                       \
  X(kHeaderLength, "safetensors.invalid_header_length", EIO, "header length reaches past the end of the file")   \
  X(kHeaderJson, "safetensors.invalid_json", EIO, "header is not one JSON object in UTF-8")                      \
  X(kDuplicateName, "safetensors.duplicate_name", EIO, "a tensor name stands twice")                             \
  X(kDuplicateKey, "safetensors.duplicate_key", EIO, "a key stands twice in one object")                         \
  X(kInvalidEntry, "safetensors.invalid_entry", EIO, "a tensor's record is not dtype, shape, data_offsets")      \
  X(kUnknownDtype, "safetensors.unknown_dtype", EIO, "a dtype that safetensors does not define")                 \
  X(kInvalidMetadata, "safetensors.invalid_metadata", EIO, "__metadata__ is not a map of texts")                 \
  X(kInvalidOffset, "safetensors.invalid_offset", EIO, "tensors overlap, leave a hole, or run backwards")        \
  X(kShapeOverflow, "safetensors.shape_overflow", EIO, "the product of a shape exceeds 64 bits")                 \
  X(kMisaligned, "safetensors.misaligned", EIO, "a sub-byte tensor does not fill whole bytes")                   \
  X(kSizeMismatch, "safetensors.size_mismatch", EIO, "data_offsets and dtype x shape disagree")                  \
  X(kTrailingBytes, "safetensors.trailing_bytes", EIO, "bytes follow the last tensor")                           \
  X(kDataTruncated, "safetensors.truncated", EIO, "the file ends before the last tensor does")                   \
  X(kIndexJson, "index.invalid_json", EIO, "model.safetensors.index.json is not the expected JSON")              \
  X(kIndexDuplicate, "index.duplicate_name", EIO, "a key stands twice in the index")                             \
  X(kIndexFileName, "index.invalid_file_name", EIO, "weight_map names something that is not a plain file name")  \
  X(kIndexMissingFile, "index.missing_file", EIO, "a file named by weight_map does not exist")                   \
  X(kIndexMissingTensor, "index.missing_tensor", EIO, "a shard lacks a tensor that weight_map puts there")       \
  X(kIndexDuplicateTensor, "index.duplicate_tensor", EIO, "two shards carry one tensor name")                    \
  X(kBaseNotFound, "base.not_found", ENOENT, "no base model was found")                                          \
  X(kBaseNoWeights, "base.no_weights", EINVAL, "the base folder holds no safetensors model")                     \
  X(kBaseAmbiguous, "base.ambiguous", EINVAL, "the base folder can be read in two ways")                         \
  X(kSourceNotFound, "source.not_found", ENOENT, "SOURCE does not exist or is not a folder")                     \
  X(kSourceUnrecognised, "source.unrecognised", EINVAL, "no known delta layout was found in SOURCE")             \
  X(kSourceAmbiguous, "source.ambiguous", EINVAL, "SOURCE holds more than one delta layout")                     \
  X(kUnsupportedFormat, "delta.unsupported_format", EIO, "a delta format that weightfs knows but cannot read")   \
  X(kUnsupportedEncoding, "delta.unsupported_encoding", EIO, "an encoding that weightfs cannot read")            \
  X(kUnsupportedChecksum, "delta.unsupported_checksum", EIO, "a digest that cannot be computed here")            \
  X(kBadMetadata, "delta.bad_metadata", EIO, "a metadata key is missing or malformed")                           \
  X(kUnknownTensor, "delta.unknown_tensor", EIO, "the base has no tensor of that name")                          \
  X(kAmbiguousName, "delta.ambiguous_name", EIO, "two names of the delta mean one tensor of the base")           \
  X(kShapeMismatch, "delta.shape_mismatch", EIO, "a published tensor has another shape than the base's")         \
  X(kDtypeMismatch, "delta.dtype_mismatch", EIO, "a published dtype does not widen exactly to the base's")       \
  X(kMissingTensor, "delta.missing_tensor", EIO, "one half of an index/value pair, or a tensor, is missing")     \
  X(kUnexpectedTensor, "delta.unexpected_tensor", EIO, "a tensor that the format does not have there")           \
  X(kCountMismatch, "delta.count_mismatch", EIO, "counts and stored bytes disagree")                             \
  X(kIndexOutOfRange, "delta.index_out_of_range", EIO, "a position beyond the tensor, or a wrapped one")         \
  X(kIndexNotAscending, "delta.index_not_ascending", EIO, "positions are not strictly ascending")                \
  X(kTensorTooLarge, "delta.tensor_too_large", EIO, "the tensor is too large for 32-bit positions")              \
  X(kPayloadSize, "delta.payload_size", EIO, "a decoded payload has not the size that the tensor demands")       \
  X(kVersionMismatch, "delta.version_mismatch", EIO, "the version inside differs from the one in the name")      \
  X(kParentMismatch, "delta.parent_mismatch", EIO, "the delta builds on another version than the one before it") \
  X(kDeltaMissingFile, "delta.missing_file", EIO, "a file of the delta is missing")                              \
  X(kDeltaIncomplete, "delta.incomplete", EIO, "the delta is not completely written yet")                        \
  X(kZstdNotAFrame, "zstd.not_a_frame", EIO, "not one zstd frame")                                               \
  X(kZstdContentSize, "zstd.content_size", EIO, "content size missing or not the size that was expected")        \
  X(kZstdWindow, "zstd.window_too_large", EIO, "the frame demands a window over 8 MiB")                          \
  X(kZstdDictionary, "zstd.dictionary", EIO, "the frame demands a dictionary")                                   \
  X(kZstdCorrupt, "zstd.corrupt", EIO, "the frame does not decode, or ends early")                               \
  X(kZstdTrailing, "zstd.trailing_data", EIO, "bytes follow the frame")                                          \
  X(kDigestMismatch, "digest.mismatch", EIO, "the composed tensor has not the published digest")                 \
  X(kBlockMismatch, "digest.block_mismatch", EIO, "a block decoded again differs from its verified bytes")       \
  X(kChainMissing, "chain.missing_version", EIO, "a version between two others is missing")                      \
  X(kChainNoStart, "chain.no_start", EIO, "the first delta does not build on the base")                          \
  X(kChainDuplicate, "chain.duplicate_version", EIO, "two deltas carry one number")                              \
  X(kChainParentRefused, "chain.parent_refused", EIO, "it builds on a version that was refused")                 \
  X(kChainOtherRun, "chain.other_run", EIO, "left over from an earlier run in the same folder")                  \
  X(kChainGap, "chain.gap", EIO, "a number before it is missing; it may still arrive")                           \
  X(kChainRewritten, "chain.rewritten", EIO, "other content under the number of an admitted version")            \
  X(kChainLate, "chain.late", EIO, "it arrived after a later version had been admitted without it")              \
  X(kChainUnpublished, "chain.unpublished", EIO, "beyond the version that the source's `latest` names")          \
  X(kNativeManifest, "native.bad_manifest", EIO, "a manifest is damaged or not one that weightfs writes")        \
  X(kNativeFeature, "native.unsupported_feature", EIO, "a feature that this weightfs does not know is required") \
  X(kNativeLayout, "native.bad_layout", EIO, "the stored layout is damaged or contradicts the manifest")         \
  X(kNativeIndex, "native.bad_index", EIO, "the index of coded blocks is damaged")                               \
  X(kNativeBlock, "native.bad_block", EIO, "a coded block does not decode")                                      \
  X(kNativeDigest, "native.block_digest", EIO, "a block decodes to other bytes than were committed")             \
  X(kNativeStore, "native.bad_store", EIO, "a folder is not a store, or not one of this version")                \
  X(kStoreBusy, "store.busy", EBUSY, "another process is writing to the store")                                  \
  X(kStoreExists, "store.exists", EEXIST, "the store, or a version of that name, exists already")                \
  X(kVersionNotFound, "version.not_found", ENOENT, "no version of that name")                                    \
  X(kMountPoint, "mount.bad_mount_point", EINVAL, "the mount point cannot be used")                              \
  X(kMountBusy, "mount.busy", EBUSY, "the mount point is mounted already, or still in use")                      \
  X(kMountFailed, "mount.failed", EIO, "the kernel or fusermount3 refused the mount")                            \
  X(kNoRoomToWarm, "warm.no_room", ENOMEM, "a version is larger than what --memory leaves for warm versions")    \
  X(kWarmFailed, "warm.failed", EIO, "a version could not be decoded into memory")                               \
  X(kNotAMount, "mount.not_weightfs", EINVAL, "no weightfs is mounted there")                                    \
  X(kExportExists, "export.exists", EEXIST, "the target exists; weightfs never overwrites")

enum class ErrorCode : uint16_t {
#define X(name, id, err, meaning) name,
  WEIGHTFS_ERROR_CODES(X)
#undef X
};

/// Stable text id, e.g. "delta.parent_mismatch".
std::string_view code_id(ErrorCode code);
/// The errno that a reader of a mounted file, or a shell, sees for this code.
int code_errno(ErrorCode code);
/// One line of explanation, the one printed in the manual.
std::string_view code_meaning(ErrorCode code);

/// What went wrong.  `message` is one line for a person: which file, which tensor or byte, what was
/// found, what to do.  Values from files must pass through quote() before they get here.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;

  int posix() const { return code_errno(code); }
  /// True for failures of reading (disk, permissions, replaced files), which may be gone when it is tried again; what
  /// is wrong with bytes stays wrong.
  bool may_pass() const;
  /// "message [id]": the form used on terminals and in logs.
  std::string text() const;
  /// The same error with "context: " in front of its message.
  [[nodiscard]] Error in(std::string_view context) const;
};

}  // namespace weightfs
