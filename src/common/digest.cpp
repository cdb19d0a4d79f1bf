// SPDX-License-Identifier: Apache-2.0
// Digests that published deltas carry, in exactly the text form that their writers use: xxh3-128 in
// canonical order (high half first), adler32 as eight digits, blake3 as 64.  blake3 comes from a
// system libblake3 if there is one; a library that fails a known answer counts as absent, because a
// digest that is computed wrongly would refuse every good file.
#include "common/digest.h"

#include <dlfcn.h>
#include <xxhash.h>
#include <zlib.h>

#include <algorithm>
#include <array>

#include "common/xxh3.h"

namespace weightfs {
namespace {

struct Kind {
  std::string_view name;
  size_t digits;
};

// In the order of DigestKind.
constexpr std::array<Kind, 3> kKinds = {{{"xxh3-128", 32}, {"blake3", 64}, {"adler32", 8}}};

const Kind& info(DigestKind kind) { return kKinds.at(static_cast<size_t>(kind)); }

std::string hex(const uint8_t* bytes, size_t count) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(2 * count);
  for (size_t i = 0; i < count; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

class Xxh3Hasher final : public Hasher {
 public:
  Xxh3Hasher() : state_(XXH3_createState()) { XXH3_128bits_reset(state_.get()); }

  void update(Bytes bytes) override { xxh3_functions().update128(state_.get(), bytes.data(), bytes.size()); }

  std::string finish() override {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    return hex(canonical.digest, sizeof canonical.digest);
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

class AdlerHasher final : public Hasher {
 public:
  void update(Bytes bytes) override {
    // zlib takes a null pointer as "give me the start value", so an empty span must not reach it.
    if (bytes.empty()) return;
    sum_ = adler32_z(sum_, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  }

  std::string finish() override {
    std::array<uint8_t, 4> digest{};
    for (size_t i = 0; i < digest.size(); ++i) digest.at(i) = static_cast<uint8_t>(sum_ >> (8 * (3 - i)));
    return hex(digest.data(), digest.size());
  }

 private:
  uLong sum_ = 1;
};

// The three functions of the BLAKE3 C API that we call.
struct Blake3Api {
  void (*init)(void*) = nullptr;
  void (*update)(void*, const void*, size_t) = nullptr;
  void (*finalize)(const void*, uint8_t*, size_t) = nullptr;
};

class Blake3Hasher final : public Hasher {
 public:
  explicit Blake3Hasher(const Blake3Api& api) : api_(api) { api_.init(storage_.data()); }

  void update(Bytes bytes) override { api_.update(storage_.data(), bytes.data(), bytes.size()); }

  std::string finish() override {
    std::array<uint8_t, 32> digest{};
    api_.finalize(storage_.data(), digest.data(), digest.size());
    return hex(digest.data(), digest.size());
  }

 private:
  const Blake3Api& api_;
  // The library's state is 1912 bytes in every release so far; we have no header to ask.
  alignas(64) std::array<std::byte, 4096> storage_{};
};

template <class Function>
bool resolve(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

bool gives_known_answer(const Blake3Api& api) {
  Blake3Hasher hasher(api);
  return hasher.finish() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";  // of no bytes
}

// Stays loaded for the life of the process once it is accepted.
Blake3Api load_blake3() {
  for (const char* file : {"libblake3.so.0", "libblake3.so"}) {
    void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    Blake3Api api;
    if (resolve(library, "blake3_hasher_init", api.init) && resolve(library, "blake3_hasher_update", api.update) &&
        resolve(library, "blake3_hasher_finalize", api.finalize) && gives_known_answer(api)) {
      return api;
    }
    dlclose(library);
  }
  return {};
}

const Blake3Api& blake3() {
  static const Blake3Api api = load_blake3();
  return api;
}

}  // namespace

uint64_t xxh3_64(Bytes bytes) { return xxh3_functions().hash64(bytes.data(), bytes.size()); }

std::string_view digest_name(DigestKind kind) { return info(kind).name; }

std::optional<DigestKind> parse_digest_kind(std::string_view name) {
  for (size_t i = 0; i < kKinds.size(); ++i) {
    if (kKinds.at(i).name == name) return static_cast<DigestKind>(i);
  }
  return std::nullopt;
}

size_t digest_text_length(DigestKind kind) { return info(kind).digits; }

bool is_digest_text(DigestKind kind, std::string_view text) {
  return text.size() == digest_text_length(kind) &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool digest_available(DigestKind kind) { return kind != DigestKind::kBlake3 || blake3().init != nullptr; }

std::unique_ptr<Hasher> make_hasher(DigestKind kind) {
  if (!digest_available(kind)) return nullptr;
  switch (kind) {
    case DigestKind::kXxh3_128:
      return std::make_unique<Xxh3Hasher>();
    case DigestKind::kBlake3:
      return std::make_unique<Blake3Hasher>(blake3());
    case DigestKind::kAdler32:
      return std::make_unique<AdlerHasher>();
  }
  return nullptr;
}

}  // namespace weightfs
