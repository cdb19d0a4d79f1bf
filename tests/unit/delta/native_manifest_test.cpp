// SPDX-License-Identifier: Apache-2.0
// Manifests: the exact text, what comes back from it, and every rule that refuses one.
#include "delta/native_manifest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "support/formats.h"
#include "support/native_bytes.h"
#include "unit/support/error_codes.h"

namespace weightfs {
namespace {

using Kind = NativeManifest::Kind;
using test::with_digest;

const std::string kA(32, 'a');
const std::string kB(32, 'b');

/// Everything before the digest, member by member, so that a test can change one.
using Members = std::vector<std::pair<std::string, std::string>>;

Members members_of(Kind kind) {
  Members members = {{"format", R"("weightfs-delta")"}, {"version", "1"}, {"features", "[]"}, {"optional", "[]"}};
  const char* kinds[] = {"reference", "full", "delta", "net"};
  members.emplace_back("kind", "\"" + std::string(kinds[static_cast<int>(kind)]) + "\"");
  members.emplace_back("name", R"("step-0022")");
  const bool base = kind == Kind::kReference;
  members.emplace_back("parent", base ? "null" : R"({"name":"step-0021","digest":")" + kA + "\"}");
  members.emplace_back("root", base ? "\"\"" : "\"" + kB + "\"");
  if (kind == Kind::kNet) members.emplace_back("result", R"({"name":"step-0030","digest":")" + kB + "\"}");
  if (base) members.emplace_back("path", R"("/models/base")");
  members.emplace_back("created", R"("2026-11-25T06:46:28Z")");
  members.emplace_back("tool", R"("weightfs 0.1.0")");
  members.emplace_back("message", R"("")");
  if (!base) {
    members.emplace_back("block_bytes", "262144");
    members.emplace_back("changed", "135000");
    members.emplace_back("layout", R"({"at":1048,"bytes":100,"digest":"00000000000000ff"})");
    members.emplace_back("index", R"({"at":1000,"bytes":48,"head":48,"digest":"0123456789abcdef"})");
    members.emplace_back("payload", R"([{"file":"payload-00001.safetensors","bytes":1148,"at":100,"blocks":900},)"
                                    R"({"file":"payload-00002.safetensors","bytes":80,"at":80,"blocks":0}])");
  }
  members.emplace_back("files", R"([{"path":"a/b.json","bytes":0,"digest":")" + kA +
                                    R"("},{"path":"model.safetensors","bytes":9007199254740993,"digest":")" + kB +
                                    "\"}]");
  return members;
}

std::string body_of(const Members& members) {
  std::string text = "{";
  for (const auto& [name, value] : members) text += (text.size() > 1 ? ",\"" : "\"") + name + "\":" + value;
  return text;
}

ErrorCode manifest_code(std::string_view text) {
  const auto manifest = NativeManifest::parse(text);
  return manifest ? kFine : manifest.error().code;
}

/// The code for a manifest in which one member has another value; nullptr leaves it out.
ErrorCode with(Kind kind, const std::string& name, const char* value) {
  Members members = members_of(kind);
  const auto found = std::find_if(members.begin(), members.end(), [&](const auto& m) { return m.first == name; });
  if (found == members.end()) {
    members.emplace_back(name, value);
  } else if (value == nullptr) {
    members.erase(found);
  } else {
    found->second = value;
  }
  return manifest_code(with_digest(body_of(members)));
}

ErrorCode with_delta(const std::string& name, const std::string& value) {
  return with(Kind::kDelta, name, value.c_str());
}

constexpr auto kBadManifest = ErrorCode::kNativeManifest;

TEST(NativeManifest, ReadsEveryMember) {
  const auto manifest = NativeManifest::parse(with_digest(body_of(members_of(Kind::kNet))));
  ASSERT_TRUE(manifest) << manifest.error().text();
  EXPECT_EQ(manifest->kind, Kind::kNet);
  EXPECT_EQ(manifest->name, "step-0022");
  EXPECT_EQ(manifest->parent, (NativeManifest::Link{"step-0021", kA}));
  EXPECT_EQ(manifest->root, kB);
  EXPECT_EQ(manifest->result, (NativeManifest::Link{"step-0030", kB}));
  EXPECT_EQ(manifest->created, "2026-11-25T06:46:28Z");
  EXPECT_EQ(manifest->tool, "weightfs 0.1.0");
  EXPECT_EQ(manifest->block_bytes, 262144u);
  EXPECT_EQ(manifest->changed, 135000u);
  ASSERT_TRUE(manifest->layout);
  EXPECT_EQ(manifest->layout->at, 1048u);
  EXPECT_EQ(manifest->layout->bytes, 100u);
  EXPECT_EQ(manifest->layout->digest, 255u);
  EXPECT_EQ(manifest->index.at, 1000u);
  EXPECT_EQ(manifest->index.bytes, 48u);
  EXPECT_EQ(manifest->index.head, 48u);
  EXPECT_EQ(manifest->index.digest, 0x0123456789abcdefu);
  ASSERT_EQ(manifest->payload.size(), 2u);
  EXPECT_EQ(manifest->payload[0].file, "payload-00001.safetensors");
  EXPECT_EQ(manifest->payload[0].bytes, 1148u);
  EXPECT_EQ(manifest->payload[0].at, 100u);
  EXPECT_EQ(manifest->payload[0].blocks, 900u);
  ASSERT_EQ(manifest->files.size(), 2u);
  EXPECT_EQ(manifest->files[1].path, "model.safetensors");
  EXPECT_EQ(manifest->files[1].bytes, 9007199254740993u);  // beyond what a double holds
  EXPECT_EQ(manifest->files[1].digest, kB);
}

TEST(NativeManifest, WritesTheTextByteByByte) {
  for (const Kind kind : {Kind::kReference, Kind::kFull, Kind::kDelta, Kind::kNet}) {
    const std::string text = with_digest(body_of(members_of(kind)));
    auto manifest = NativeManifest::parse(text);
    ASSERT_TRUE(manifest) << manifest.error().text();
    const std::string digest = manifest->digest;
    manifest->digest.clear();
    EXPECT_EQ(manifest->serialise(), text);
    EXPECT_EQ(manifest->digest, digest);
    EXPECT_EQ(digest, test::xxh3_128_hex(body_of(members_of(kind))));
  }
}

TEST(NativeManifest, EscapesTextsSoThatTheyComeBack) {
  using namespace std::string_literals;
  auto manifest = NativeManifest::parse(with_digest(body_of(members_of(Kind::kDelta)))).value();
  manifest.message = "quote \" slash \\ tab \t newline \n bell \x07 nul \0 grüße 日本 \x7f"s;
  manifest.files[0].path = "a/\"odd\"\n\\name";
  const auto again = NativeManifest::parse(manifest.serialise());
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_EQ(again->message, manifest.message);
  EXPECT_EQ(again->files[0].path, manifest.files[0].path);
  manifest.message = "no \xff text";
  EXPECT_EQ(NativeManifest::parse(manifest.serialise())->message, "no \xef\xbf\xbd text");
}

TEST(NativeManifest, NullsStandForWhatIsNotThere) {
  EXPECT_EQ(with_delta("layout", "null"), kFine);
  EXPECT_EQ(with_delta("changed", "null"), kFine);
  EXPECT_EQ(with_delta("message", "null"), kBadManifest);
  EXPECT_EQ(with_delta("index", "null"), kBadManifest);
  EXPECT_EQ(with_delta("payload", "null"), kBadManifest);
  EXPECT_EQ(with_delta("files", "null"), kBadManifest);
}

TEST(NativeManifest, UnknownMembersAreIgnoredWhateverTheyHold) {
  EXPECT_EQ(with_delta("later", R"({"name":{"at":[1,{"x":null}]},"kind":"odd","features":["x"]})"), kFine);
  EXPECT_EQ(with_delta("later", "[[[-1.5e3]]]"), kFine);
  EXPECT_EQ(with_delta("optional", R"(["later","much later"])"), kFine);
  EXPECT_EQ(with_delta("parent", R"({"name":"x","digest":")" + kA + R"(","at":"text","more":[{}]})"), kFine);
}

TEST(NativeManifest, UnknownFeaturesAndVersionsAreRefusedByName) {
  EXPECT_EQ(with_delta("features", R"(["dictionary"])"), ErrorCode::kNativeFeature);
  EXPECT_EQ(with_delta("version", "2"), ErrorCode::kNativeFeature);
  EXPECT_EQ(with_delta("version", "0"), ErrorCode::kNativeFeature);
  const auto manifest = NativeManifest::parse(with_digest(R"({"features":["dictionary"],"kind":7)"));
  ASSERT_FALSE(manifest);
  EXPECT_EQ(manifest.error().code, ErrorCode::kNativeFeature);
  EXPECT_NE(manifest.error().message.find("'dictionary'"), std::string::npos);
}

TEST(NativeManifest, EveryMemberIsNeeded) {
  for (const Kind kind : {Kind::kReference, Kind::kFull, Kind::kDelta, Kind::kNet}) {
    for (const auto& [name, value] : members_of(kind)) EXPECT_EQ(with(kind, name, nullptr), kBadManifest) << name;
  }
}

TEST(NativeManifest, NoMemberStandsTwice) {
  for (const auto& member : members_of(Kind::kNet)) {
    Members members = members_of(Kind::kNet);
    members.push_back(member);
    EXPECT_EQ(manifest_code(with_digest(body_of(members))), kBadManifest) << member.first;
  }
  EXPECT_EQ(with_delta("digest", "\"" + kA + "\""), kBadManifest);
  EXPECT_EQ(with_delta("later", R"({"a":1,"b":2,"a":3})"), kBadManifest);
  EXPECT_EQ(with_delta("later", R"([{"x":{"\u0061":1,"a":3}}])"), kBadManifest);
  EXPECT_EQ(with_delta("parent", R"({"name":"x","name":"x","digest":")" + kA + "\"}"), kBadManifest);
}

TEST(NativeManifest, AnObjectHasSoManyMembersAndNotMore) {
  const auto many = [](int count) {
    std::string text = "{";
    for (int i = 0; i < count; ++i) text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":0";
    return text + "}";
  };
  EXPECT_EQ(with_delta("later", many(1000)), kFine);
  EXPECT_EQ(with_delta("later", many(1001)), kBadManifest);
}

TEST(NativeManifest, EveryMemberHasItsType) {
  const std::vector<std::string> values = {"true", "7", "-7", "1.5", "\"text\"", "[7]", "[\"x\",[]]", "{}", "[{}]"};
  for (const auto& [name, good] : members_of(Kind::kNet)) {
    for (const std::string& value : values) {
      if (value == good) continue;
      const bool free_text = name == "tool" || name == "message";
      const bool any_text = free_text || name == "name";
      if ((any_text && value == "\"text\"") || (name == "changed" && value == "7")) continue;
      const ErrorCode code = with(Kind::kNet, name, value.c_str());
      const bool feature = (name == "version" && value == "7") || (name == "features" && value.starts_with("[\"x\""));
      EXPECT_EQ(code, feature ? ErrorCode::kNativeFeature : kBadManifest) << name << " " << value;
    }
  }
}

TEST(NativeManifest, AKindHasItsOwnMembersOnly) {
  EXPECT_EQ(with_delta("kind", "\"patch\""), kBadManifest);
  EXPECT_EQ(with_delta("path", "\"/models/base\""), kBadManifest);
  EXPECT_EQ(with_delta("result", R"({"name":"x","digest":")" + kA + "\"}"), kBadManifest);
  for (const char* name : {"block_bytes", "changed", "layout", "index", "payload"}) {
    EXPECT_EQ(with(Kind::kReference, name, "null"), kBadManifest) << name;
  }
  EXPECT_EQ(with(Kind::kFull, "layout", "null"), kBadManifest);
  EXPECT_EQ(with(Kind::kNet, "layout", "null"), kFine);
}

TEST(NativeManifest, LinksAreComplete) {
  EXPECT_EQ(with_delta("parent", "null"), kBadManifest);
  EXPECT_EQ(with(Kind::kNet, "parent", "null"), kBadManifest);
  EXPECT_EQ(with_delta("root", "\"\""), kBadManifest);
  EXPECT_EQ(with_delta("root", "\"" + std::string(32, 'G') + "\""), kBadManifest);
  EXPECT_EQ(with(Kind::kReference, "root", ("\"" + kA + "\"").c_str()), kBadManifest);
  EXPECT_EQ(with(Kind::kReference, "parent", (R"({"name":"x","digest":")" + kA + "\"}").c_str()), kBadManifest);
  EXPECT_EQ(with_delta("parent", R"({"name":"../x","digest":")" + kA + "\"}"), kBadManifest);
  EXPECT_EQ(with_delta("parent", R"({"name":"x","digest":"abc"})"), kBadManifest);
  EXPECT_EQ(with_delta("parent", R"({"name":"x"})"), kBadManifest);
  EXPECT_EQ(with_delta("parent", R"({"digest":")" + kA + "\"}"), kBadManifest);
  Members base = members_of(Kind::kFull);
  for (auto& [name, value] : base) {
    if (name == "parent") value = "null";
    if (name == "root") value = "\"\"";
  }
  EXPECT_EQ(manifest_code(with_digest(body_of(base))), kFine);  // a base that is kept inside
}

TEST(NativeManifest, TextsHaveTheirForm) {
  for (const char* name : {"\"\"", "\"a/b\"", "\"..\"", "\".tmp-x\"", "\"a\\u0000\""}) {
    EXPECT_EQ(with_delta("name", name), kBadManifest) << name;
  }
  for (const char* time : {"\"\"", "\"2026-11-25\"", "\"2026-11-25 06:46:28Z\"", "\"2026-11-25T06:46:28+\"",
                           "\"2026-11-25T06:46:2xZ\"", "\"2026-11-25T06:46:28Zx\""}) {
    EXPECT_EQ(with_delta("created", time), kBadManifest) << time;
  }
  for (const char* path : {"\"\"", "\"models/base\"", "\"/a\\u0000b\""}) {
    EXPECT_EQ(with(Kind::kReference, "path", path), kBadManifest) << path;
  }
}

TEST(NativeManifest, FilesAscendAndStayInTheTree) {
  const auto file = [](const std::string& path, const std::string& bytes = "1", const std::string& digest = kA) {
    return R"({"path":")" + path + R"(","bytes":)" + bytes + R"(,"digest":")" + digest + "\"}";
  };
  EXPECT_EQ(with_delta("files", "[]"), kFine);
  EXPECT_EQ(with_delta("files", "[" + file("a") + "," + file("b") + "]"), kFine);
  EXPECT_EQ(with_delta("files", "[" + file("b") + "," + file("a") + "]"), kBadManifest);
  EXPECT_EQ(with_delta("files", "[" + file("a") + "," + file("a") + "]"), kBadManifest);
  for (const char* path : {"", "/a", "../a", "a/../b", "a//b", "a/", "a\\u0000"}) {
    EXPECT_EQ(with_delta("files", "[" + file(path) + "]"), kBadManifest) << path;
  }
  EXPECT_EQ(with_delta("files", "[" + file("a", "1", "12") + "]"), kBadManifest);
  EXPECT_EQ(with_delta("files", "[" + file("a", "18446744073709551615") + "]"), kBadManifest);
  EXPECT_EQ(with_delta("files", "[" + file("a", "18446744073709551616") + "]"), kBadManifest);
  EXPECT_EQ(with_delta("files", "[" + file("a", "4611686018427387904") + "," + file("b", "4611686018427387904") + "]"),
            kBadManifest);
  EXPECT_EQ(with_delta("files", R"([{"path":"a","bytes":1}])"), kBadManifest);
}

std::string payload(const std::string& file, const std::string& bytes, const std::string& at,
                    const std::string& blocks) {
  return R"({"file":")" + file + R"(","bytes":)" + bytes + ",\"at\":" + at + ",\"blocks\":" + blocks + "}";
}

TEST(NativeManifest, PayloadFilesArePlainAndHoldTheirBlocks) {
  const std::string first = payload("one", "1148", "100", "900");
  EXPECT_EQ(with_delta("payload", "[" + first + "]"), kFine);
  EXPECT_EQ(with_delta("payload", "[]"), kBadManifest);
  for (const char* name : {"", "a/b", "../one", ".hidden", "manifest.json", "one"}) {
    EXPECT_EQ(with_delta("payload", "[" + first + "," + payload(name, "10", "8", "2") + "]"), kBadManifest) << name;
  }
  const std::string max = "18446744073709551615";
  for (const auto& other :
       {payload("two", "10", "8", "3"), payload("two", "10", "11", "0"), payload("two", "10", "8", max),
        payload("two", "10", max, "1"), payload("two", max, "0", max), payload("two", max, "8", "1"),
        payload("two", "10", max, max)}) {
    EXPECT_EQ(with_delta("payload", "[" + first + "," + other + "]"), kBadManifest) << other;
  }
  const std::string half = "4611686018427387904";
  EXPECT_EQ(with_delta("payload", "[" + first + "," + payload("two", half, "0", half) + "," +
                                      payload("three", half, "0", half) + "]"),
            kBadManifest);
}

std::string range(const std::string& at, const std::string& bytes, const std::string& head = "") {
  return R"({"at":)" + at + ",\"bytes\":" + bytes + (head.empty() ? "" : ",\"head\":" + head) +
         R"(,"digest":"0123456789abcdef"})";
}

TEST(NativeManifest, IndexAndLayoutLieBesideTheBlocks) {
  EXPECT_EQ(with_delta("index", range("1000", "48", "24")), kFine);
  for (const auto& bad :
       {range("1000", "48", "23"), range("1000", "48", "25"), range("1000", "48", "72"), range("1000", "48", "0"),
        range("999", "48", "48"), range("1001", "48", "48"), range("1148", "48", "48"),
        range("18446744073709551615", "48", "48"), range("1000", "18446744073709551615", "48"),
        range("1000", "4294967296", "48"), range("1000", "48"), range("60", "48", "48")}) {
    EXPECT_EQ(with_delta("index", bad), kBadManifest) << bad;
  }
  EXPECT_EQ(with_delta("layout", range("1048", "99")), kFine);
  for (const auto& bad : {range("1047", "99"), range("1048", "101"), range("0", "101"), range("500", "1"),
                          range("1048", "18446744073709551615"), R"({"at":1048,"bytes":100})" + std::string(),
                          R"({"at":1048,"bytes":100,"digest":"0123"})" + std::string(),
                          R"({"at":1048,"bytes":100,"digest":"0123456789ABCDEF"})" + std::string()}) {
    EXPECT_EQ(with_delta("layout", bad), kBadManifest) << bad;
  }
}

TEST(NativeManifest, BlocksHaveOneOfThreeSizes) {
  for (const char* size : {"65536", "262144", "1048576"}) EXPECT_EQ(with_delta("block_bytes", size), kFine);
  for (const char* size : {"0", "1", "65535", "131072", "524288", "2097152", "18446744073709551615"}) {
    EXPECT_EQ(with_delta("block_bytes", size), kBadManifest) << size;
  }
  EXPECT_EQ(with_delta("changed", "18446744073709551615"), kBadManifest);
  EXPECT_EQ(with_delta("changed", "18446744073709551614"), kFine);
}

TEST(NativeManifest, TheDigestIsLastAndRight) {
  const std::string body = body_of(members_of(Kind::kDelta));
  const std::string digest = test::xxh3_128_hex(body);
  const std::string good = body + R"(,"digest":")" + digest + "\"}\n";
  EXPECT_EQ(manifest_code(good), kFine);
  EXPECT_EQ(manifest_code(good.substr(0, good.size() - 1)), kBadManifest);
  EXPECT_EQ(manifest_code(good + "\n"), kBadManifest);
  EXPECT_EQ(manifest_code(" " + good), kBadManifest);
  EXPECT_EQ(manifest_code(body + R"(, "digest":")" + digest + "\"}\n"), kBadManifest);
  EXPECT_EQ(manifest_code(body + R"(,"digest":")" + kA + "\"}\n"), kBadManifest);
  EXPECT_EQ(manifest_code(body + "}\n"), kBadManifest);
  EXPECT_EQ(manifest_code(""), kBadManifest);
  EXPECT_EQ(manifest_code("\"}\n"), kBadManifest);
  // A digest that is right for its bytes, but those are no manifest.
  EXPECT_EQ(manifest_code(with_digest("")), kBadManifest);
  EXPECT_EQ(manifest_code(with_digest("{\"a\":1")), kBadManifest);
  EXPECT_EQ(manifest_code(with_digest("[1")), kBadManifest);
  EXPECT_EQ(manifest_code(with_digest(body + ",\"x\":{")), kBadManifest);
}

TEST(NativeManifest, EveryTruncationAndFlippedBitIsRefused) {
  const std::string text = with_digest(body_of(members_of(Kind::kNet)));
  for (size_t length = 0; length < text.size(); ++length)
    ASSERT_EQ(manifest_code(text.substr(0, length)), kBadManifest) << length;
  for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string damaged = text;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    ASSERT_EQ(manifest_code(damaged), kBadManifest) << bit;
  }
}

TEST(NativeManifest, TooLargeATextIsNotEvenLookedAt) {
  const auto manifest = NativeManifest::parse(std::string(kMaxManifestBytes + 1, ' '));
  ASSERT_FALSE(manifest);
  EXPECT_NE(manifest.error().message.find("at most"), std::string::npos);
}

/// A manifest with random numbers and names that keeps every rule.
NativeManifest random_manifest(std::mt19937_64& random) {
  const auto hex = [&](size_t digits) {
    std::string text;
    while (text.size() < digits) text += test::hex64(random());
    return text.substr(0, digits);
  };
  NativeManifest manifest;
  manifest.kind = static_cast<Kind>(random() % 4);
  manifest.name = "v" + std::to_string(random());
  manifest.optional.assign(random() % 3, "opt\"ional");
  manifest.created = "2026-11-25T06:46:28Z";
  manifest.tool = "tool \\ " + std::to_string(random());
  manifest.message = std::string(random() % 20, '\n');
  for (size_t i = 0, n = random() % 20; i < n; ++i) {
    manifest.files.push_back({"d" + std::to_string(100 + i) + "/f", random() >> 8, hex(32)});
  }
  if (manifest.kind == Kind::kReference) {
    manifest.path = "/" + hex(8);
    return manifest;
  }
  manifest.parent = NativeManifest::Link{"p" + hex(4), hex(32)};
  manifest.root = hex(32);
  if (manifest.kind == Kind::kNet) manifest.result = NativeManifest::Link{"r" + hex(4), hex(32)};
  manifest.block_bytes = 65536u << 2 * (random() % 3);
  if (random() % 2 == 0) manifest.changed = random() >> 1;
  const uint64_t at = random() % 1000;
  const uint64_t blocks = random() >> 8;
  manifest.index = {at + blocks, 24 + 24 * (random() % 9) + random() % 1000, 24, random()};
  uint64_t end = manifest.index.at + manifest.index.bytes;
  if (manifest.kind == Kind::kFull || random() % 2 == 0) {
    manifest.layout = NativeManifest::Range{end, random() % 500, 0, random()};
    end += manifest.layout->bytes;
  }
  manifest.payload.push_back({"payload-00001.safetensors", end, at, blocks});
  for (size_t i = 0, n = random() % 4; i < n; ++i) {
    const uint64_t more = random() >> 8;
    manifest.payload.push_back({"more-" + std::to_string(i), 100 + more, 90, more + 10});
  }
  return manifest;
}

TEST(NativeManifest, RandomManifestsComeBackEqual) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 500; ++round) {
    NativeManifest manifest = random_manifest(random);
    const std::string text = manifest.serialise();
    auto again = NativeManifest::parse(text);
    ASSERT_TRUE(again) << again.error().text() << "\n" << text;
    ASSERT_EQ(again->digest, manifest.digest);
    ASSERT_EQ(again->name, manifest.name);
    ASSERT_EQ(again->message, manifest.message);
    ASSERT_EQ(again->changed, manifest.changed);
    ASSERT_EQ(again->files.size(), manifest.files.size());
    ASSERT_EQ(again->payload.size(), manifest.payload.size());
    ASSERT_EQ(again->layout.has_value(), manifest.layout.has_value());
    ASSERT_EQ(again->index.digest, manifest.index.digest);
    ASSERT_EQ(again->serialise(), text);
  }
}

}  // namespace
}  // namespace weightfs
