# SPDX-License-Identifier: Apache-2.0
"""Reference implementation in Python: independent of the C++ code, written for clarity.

Writers make sources in the formats that weightfs reads; decoders turn a source and its base into
ordinary folders, one a version.  Tests compare those folders with what a mount shows.
Only the standard library, numpy, zstandard and xxhash are used (blake3 where importable).
"""
