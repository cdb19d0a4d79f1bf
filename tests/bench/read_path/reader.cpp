// SPDX-License-Identifier: Apache-2.0
// Reads files with several threads in one way and prints how long that took, as one line of JSON.
//
//   weightfs_reader --method METHOD --readers N [--files one|all] [--by-file] [--open-late] [--sum] [--refill]
//                   FILE...
//
//   pread        pieces of 1 MiB into a buffer of the thread
//   direct       O_DIRECT, pieces of 4 MiB into an aligned buffer; what is no whole page at a file's end by pread
//   mmap-touch   one byte of every 4 KiB page of a mapping, summed
//   mmap-copy    memcpy of 1 MiB pieces of a mapping into a buffer of the thread
//   fill-memcpy  memcpy of mapped files into anonymous huge pages: fresh ones, or with --refill filled ones
//
// One file (--files one drops the others) is cut into a contiguous part for each reader.  Several are cut into extents
// of an eighth of a reader's share, 4 to 64 MiB; each reader takes the next one from a common counter.  Cuts are
// multiples of 4 MiB.  With --by-file each reader takes a whole file at a time, as loaders with a thread a shard do.
// Threads run and their buffers have been touched before the clock starts; opening and mapping are inside it, but
// fill-memcpy's sources are mapped and populated before.  All files are opened before the first byte is read.  With
// --open-late (not with fill-memcpy) only their sizes are looked up then, and the first reader that comes to an extent
// of a file opens it while others that come to it wait, as loaders do that open one shard after the other.
// --sum adds the sum of the 64-bit words, or of the touched bytes, modulo 2^64, and the time for it (not with
// fill-memcpy).
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <latch>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t kPage = 4096, kPiece = 1 << 20, kHugePage = 2 << 20;
constexpr uint64_t kCut = 4 << 20;  // also the piece of direct reads

constexpr std::string_view kMethods[] = {"pread", "direct", "mmap-touch", "mmap-copy", "fill-memcpy"};

struct Options {
  std::string_view method;
  unsigned readers = 1;
  bool sum = false, refill = false, by_file = false, open_late = false;
  std::vector<std::string> paths;
};

struct File {
  std::string path;
  std::once_flag opened;
  int fd = -1, direct_fd = -1;
  uint64_t size = 0, place = 0;  // place: in the memory that is filled
  const std::byte* map = nullptr;
};

struct Extent {
  File* file;
  uint64_t begin, end;
};

[[noreturn]] void fail(const std::string& what) {
  fprintf(stderr, "weightfs_reader: %s: %s\n", what.c_str(), strerror(errno));
  _exit(1);
}

[[noreturn]] void usage() {
  fputs(
      "usage: weightfs_reader --method METHOD --readers N [--files one|all] [--by-file] [--open-late] [--sum] "
      "[--refill] FILE...\n",
      stderr);
  exit(2);
}

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

Options parse(int argc, char** argv) {
  static const option kOptions[] = {{"method", 1, nullptr, 'm'},    {"readers", 1, nullptr, 'n'},
                                    {"files", 1, nullptr, 'f'},     {"sum", 0, nullptr, 's'},
                                    {"refill", 0, nullptr, 'r'},    {"by-file", 0, nullptr, 'b'},
                                    {"open-late", 0, nullptr, 'l'}, {}};
  Options options;
  bool one = false;
  for (int option; (option = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    if (option == 'm') options.method = optarg;
    if (option == 'n') options.readers = static_cast<unsigned>(strtoul(optarg, nullptr, 10));
    if (option == 'f') one = std::string_view(optarg) == "one";
    if (option == 's') options.sum = true;
    if (option == 'r') options.refill = true;
    if (option == 'b') options.by_file = true;
    if (option == 'l') options.open_late = true;
    if (option == '?') usage();
  }
  options.paths.assign(argv + optind, argv + argc);
  if (std::count(std::begin(kMethods), std::end(kMethods), options.method) == 0) usage();
  if (options.paths.empty() || options.readers == 0 || options.readers > 4096) usage();
  if (options.open_late && options.method == "fill-memcpy") usage();
  if (one) options.paths.resize(1);
  return options;
}

uint64_t size_of(const std::string& path) {
  struct stat about {};
  if (stat(path.c_str(), &about) != 0) fail(path);
  return static_cast<uint64_t>(about.st_size);
}

void open_file(File& file, std::string_view method) {
  file.fd = open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.fd < 0) fail(file.path);
  if (method == "direct") {
    file.direct_fd = open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (file.direct_fd < 0) fail(file.path + ": O_DIRECT");
  } else if (method != "pread" && file.size > 0) {
    const int flags = MAP_PRIVATE | (method == "fill-memcpy" ? MAP_POPULATE : 0);
    void* map = mmap(nullptr, file.size, PROT_READ, flags, file.fd, 0);
    if (map == MAP_FAILED) fail(file.path + ": mmap");
    file.map = static_cast<const std::byte*>(map);
  }
}

/// Opens and maps a file unless that has been done; waits while another reader does it.
void open_once(File& file, std::string_view method) {
  std::call_once(file.opened, [&] { open_file(file, method); });
}

/// The files with their sizes; with --open-late readers open them when they come to them.
std::vector<File> files_of(const Options& options) {
  std::vector<File> files(options.paths.size());
  uint64_t place = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].path = options.paths[i];
    files[i].size = size_of(files[i].path);
    files[i].place = place;
    place += round_up(files[i].size, kPage);
    if (!options.open_late) open_once(files[i], options.method);
  }
  return files;
}

std::vector<Extent> cut(std::vector<File>& files, unsigned readers, bool by_file) {
  uint64_t total = 0;
  for (const File& file : files) total += file.size;
  const uint64_t share = std::max<uint64_t>((total + readers - 1) / readers, 1);
  const uint64_t step = by_file             ? total
                        : files.size() == 1 ? round_up(share, kCut)
                                            : std::min(round_up(share / 8 + 1, kCut), 16 * kCut);
  std::vector<Extent> extents;
  for (File& file : files) {
    for (uint64_t at = 0; at < file.size; at += step) extents.push_back({&file, at, std::min(at + step, file.size)});
  }
  return extents;
}

uint64_t sum_words(const std::byte* from, uint64_t size) {
  uint64_t sum = 0, word = 0, at = 0;
  for (; at + 8 <= size; at += 8) {
    memcpy(&word, from + at, 8);
    sum += word;
  }
  word = 0;
  memcpy(&word, from + at, size - at);
  return sum + word;
}

void read_fully(int fd, std::byte* into, uint64_t size, uint64_t at) {
  while (size > 0) {
    const ssize_t done = pread(fd, into, size, static_cast<off_t>(at));
    if (done < 0 && errno == EINTR) continue;
    if (done == 0) errno = EIO;  // shorter than it said
    if (done <= 0) fail("pread at " + std::to_string(at));
    into += done;
    at += static_cast<uint64_t>(done);
    size -= static_cast<uint64_t>(done);
  }
}

/// Brings one piece of a file into `buffer`.
void fetch(std::string_view method, const File& file, uint64_t at, uint64_t size, std::byte* buffer) {
  if (method == "mmap-copy") return static_cast<void>(memcpy(buffer, file.map + at, size));
  const uint64_t direct = method == "direct" ? size / kPage * kPage : 0;
  read_fully(file.direct_fd, buffer, direct, at);
  read_fully(file.fd, buffer + direct, size - direct, at + direct);
}

/// Returns its share of the sum.  `buffer`: for fill-memcpy all of the memory.
uint64_t read_extent(const Options& options, const Extent& extent, std::byte* buffer) {
  const auto& [file, begin, end] = extent;
  open_once(*file, options.method);
  if (options.method == "fill-memcpy") return memcpy(buffer + file->place + begin, file->map + begin, end - begin), 0;
  uint64_t sum = 0;
  if (options.method == "mmap-touch") {
    for (uint64_t at = begin; at < end; at += kPage) sum += static_cast<uint64_t>(file->map[at]);
    return sum;
  }
  const uint64_t piece = options.method == "direct" ? kCut : kPiece;
  for (uint64_t at = begin; at < end; at += piece) {
    const uint64_t size = std::min(piece, end - at);
    fetch(options.method, *file, at, size, buffer);
    asm volatile("" : : "r"(buffer) : "memory");  // the bytes are wanted even if nobody looks at them
    if (options.sum) sum += sum_words(buffer, size);
  }
  return sum;
}

std::byte* huge_memory(uint64_t size) {
  size = round_up(size, kHugePage) + kHugePage;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("memory to fill");
  madvise(memory, size, MADV_HUGEPAGE);
  return reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uint64_t>(memory), kHugePage));
}

struct Pass {
  double seconds = 0;
  uint64_t bytes = 0, sum = 0;
};

/// One clocked pass over all files.  `filled`: where fill-memcpy copies the opened `files`; else null.
Pass run(const Options& options, std::vector<File>& files, std::byte* filled) {
  std::vector<Extent> extents;
  std::atomic<size_t> next{options.readers};
  std::atomic<uint64_t> sum{0};
  std::latch ready(options.readers), go(1);
  const auto work = [&](size_t reader) {
    std::byte* buffer = filled;
    if (buffer == nullptr) memset(buffer = static_cast<std::byte*>(aligned_alloc(kPage, kCut)), 1, kCut);
    ready.count_down();
    go.wait();
    uint64_t mine = 0;
    for (size_t i = reader; i < extents.size(); i = next++) mine += read_extent(options, extents[i], buffer);
    sum += mine;
  };
  std::vector<std::thread> threads;
  for (unsigned reader = 0; reader < options.readers; ++reader) threads.emplace_back(work, reader);
  ready.wait();
  const auto start = std::chrono::steady_clock::now();
  if (filled == nullptr) files = files_of(options);
  extents = cut(files, options.readers, options.by_file);
  go.count_down();
  for (std::thread& thread : threads) thread.join();
  Pass pass{std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
  for (const File& file : files) pass.bytes += file.size;
  pass.sum = sum;
  return pass;
}

Pass fill(const Options& options) {
  std::vector<File> files = files_of(options);
  std::byte* memory = huge_memory(files.back().place + files.back().size);
  if (options.refill) run(options, files, memory);
  Pass pass = run(options, files, memory);
  for (const File& file : files) pass.sum += options.sum ? sum_words(memory + file.place, file.size) : 0;
  return pass;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  std::vector<File> files;
  const Pass pass = options.method == "fill-memcpy" ? fill(options) : run(options, files, nullptr);
  printf("{\"method\": \"%s\", \"readers\": %u, \"bytes\": %lu, \"seconds\": %.9f, \"gb_per_s\": %.4f",
         options.method.data(), options.readers, pass.bytes, pass.seconds,
         static_cast<double>(pass.bytes) / pass.seconds / 1e9);
  if (options.sum) printf(", \"sum\": %lu", pass.sum);
  printf("}\n");
}
