// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors_header.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <numeric>
#include <random>
#include <set>

#include "io/files.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

std::string file_bytes(const std::string& json, size_t data) {
  std::string bytes(8, '\0');
  store_le<uint64_t>(reinterpret_cast<std::byte*>(bytes.data()), json.size());
  return bytes + json + std::string(data, '\0');
}

MemorySource memory(const std::string& bytes) {
  const auto view = as_bytes(bytes);
  return {"memory", {view.begin(), view.end()}};
}

ErrorCode parse_error(const std::string& json, uint64_t data) {
  const auto header = SafetensorsHeader::parse(as_bytes(json), data);
  return header ? ErrorCode::kInternal : header.error().code;
}

constexpr const char* kTwo =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";

TEST(Header, GivesTensorsInFileOrderWithTheirFields) {
  const auto header = SafetensorsHeader::parse(as_bytes(kTwo), 16);
  ASSERT_TRUE(header) << header.error().text();
  ASSERT_EQ(header->tensors().size(), 2U);
  const TensorInfo& a = header->tensors()[0];
  const TensorInfo& b = header->tensors()[1];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, Dtype::kF32);
  EXPECT_EQ(a.shape_text(), "[]");
  EXPECT_EQ(a.elements(), 1U);
  EXPECT_EQ(a.bytes(), 4U);
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, Dtype::kBf16);
  EXPECT_EQ(b.shape_text(), "[2, 3]");
  EXPECT_EQ(b.elements(), 6U);
  EXPECT_EQ(b.begin, 4U);
  EXPECT_EQ(b.end, 16U);
  EXPECT_EQ(header->find("b"), &b);
  EXPECT_EQ(header->find("c"), nullptr);
  EXPECT_EQ(header->find(""), nullptr);
  EXPECT_EQ(header->data_start(), 8 + std::string(kTwo).size());
  EXPECT_TRUE(header->has_metadata());
  EXPECT_EQ(header->metadata().at("format"), "pt");
}

TEST(Header, SurvivesCopyAndMove) {
  auto original = std::make_unique<SafetensorsHeader>(*SafetensorsHeader::parse(as_bytes(kTwo), 16));
  const SafetensorsHeader copy = *original;
  const SafetensorsHeader moved = std::move(*original);
  original.reset();
  ASSERT_NE(copy.find("a"), nullptr);
  EXPECT_EQ(copy.find("a"), &copy.tensors()[0]);
  EXPECT_EQ(moved.find("b"), &moved.tensors()[1]);
}

TEST(Header, NamesAreUnescapedAndOpaque) {
  const std::string json = R"({"\u0061\u0000\ud83d\ude42":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
  const auto header = SafetensorsHeader::parse(as_bytes(json), 0);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->tensors()[0].name, std::string("a\0🙂", 6));
}

TEST(Header, SubByteTensorsCountTheirElements) {
  const std::string json = R"({"a":{"dtype":"F6_E2M3","shape":[2,4],"data_offsets":[0,6]}})";
  const auto header = SafetensorsHeader::parse(as_bytes(json), 6);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->tensors()[0].elements(), 8U);
}

TEST(Header, ReadMarksTheDataAreaSoThatHeaderReadsAreNotTensorReads) {
  const test::TempFolder folder;
  const Files files;
  const auto source = files.open(folder.write("m.safetensors", file_bytes(kTwo, 16)));
  ASSERT_TRUE(source);
  const auto header = SafetensorsHeader::read(**source);
  ASSERT_TRUE(header) << header.error().text();
  EXPECT_EQ(files.counters().tensor_bytes, 0U);
  EXPECT_EQ(files.counters().header_bytes, header->data_start());
  std::array<std::byte, 5> bytes{};
  ASSERT_TRUE((*source)->read_at(header->data_start() + 1, bytes));
  EXPECT_EQ(files.counters().tensor_bytes, 5U);
}

TEST(Header, TheFingerprintFollowsEveryByteOfTheText) {
  const auto one = SafetensorsHeader::parse(as_bytes("{}"), 0);
  const auto same = SafetensorsHeader::parse(as_bytes("{}"), 0);
  const auto other = SafetensorsHeader::parse(as_bytes("{} "), 0);
  EXPECT_EQ(one->fingerprint(), same->fingerprint());
  EXPECT_NE(one->fingerprint(), other->fingerprint());
}

TEST(Header, EveryTruncationOfAFileIsRefused) {
  const std::string whole = file_bytes(kTwo, 16);
  for (size_t length = 0; length < whole.size(); ++length) {
    auto source = memory(whole.substr(0, length));
    const auto header = SafetensorsHeader::read(source);
    ASSERT_FALSE(header) << length;
    const ErrorCode expected = length < 8                              ? ErrorCode::kHeaderTooSmall
                               : length < 8 + std::string(kTwo).size() ? ErrorCode::kHeaderLength
                                                                       : ErrorCode::kDataTruncated;
    EXPECT_EQ(header.error().code, expected) << length;
  }
}

TEST(Header, EverySingleBitFlipOfTheHeaderIsAnswered) {
  const std::string whole = file_bytes(kTwo, 16);
  const size_t header_end = whole.size() - 16;
  for (size_t bit = 0; bit < header_end * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    auto source = memory(flipped);
    const auto header = SafetensorsHeader::read(source);
    if (!header) continue;
    uint64_t end = 0;
    for (const TensorInfo& tensor : header->tensors()) {
      ASSERT_EQ(tensor.begin, end);
      end = tensor.end;
    }
    ASSERT_EQ(header->data_start() + end, whole.size());
  }
}

TEST(Header, ErrorsNameTheFileTheTensorAndTheSurplus) {
  auto source = memory(file_bytes(kTwo, 19));
  const auto header = SafetensorsHeader::read(source);
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().code, ErrorCode::kTrailingBytes);
  EXPECT_NE(header.error().message.find("'memory'"), std::string::npos);
  EXPECT_NE(header.error().message.find("3 surplus bytes"), std::string::npos);
  const std::string evil = R"({"e\n\u001bvil":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})";
  const auto quoted = SafetensorsHeader::parse(as_bytes(evil), 1);
  ASSERT_FALSE(quoted);
  EXPECT_NE(quoted.error().message.find("'e\\x0a\\x1bvil'"), std::string::npos);
}

TEST(Header, AHugeLengthIsRefusedBeforeAnythingIsAllocated) {
  const test::TempFolder folder;
  const Files files;
  const std::string path = folder.write("sparse", std::string("\x01\xe1\xf5\x05\0\0\0\0", 8));  // 100,000,001
  std::filesystem::resize_file(path, uint64_t{1} << 40);
  const auto source = files.open(path);
  const auto header = SafetensorsHeader::read(**source);
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().code, ErrorCode::kHeaderTooLarge);
  EXPECT_EQ(files.counters().header_bytes, 8U);
}

TEST(Header, AReadErrorIsPassedOn) {
  const test::TempFolder folder;
  const Files files;
  const std::string path = folder.write("m.safetensors", file_bytes(kTwo, 16));
  const auto source = files.open(path);
  std::filesystem::resize_file(path, 20);
  const auto header = SafetensorsHeader::read(**source);
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().code, ErrorCode::kIoChanged);
}

// What a random model consists of, kept apart from the parser's own types where they matter.
struct RandomTensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Writes a text with escapes where they are needed and, at random, where they are not.
std::string json_text(const std::string& text, std::mt19937& random) {
  std::string json = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool needs = byte < 0x20 || c == '"' || c == '\\';
    if (needs || (byte < 0x80 && random() % 8 == 0)) {
      const unsigned code = byte;
      json += random() % 2 == 0 ? fmt::format("\\u{:04x}", code) : fmt::format("\\u{:04X}", code);
    } else {
      json += c;
    }
  }
  return json + "\"";
}

std::string random_name(std::mt19937& random) {
  static const std::vector<std::string> kPieces = {
      "model", ".", "layers", "0", "重", "é", "\"", "\\", "/", "\n", "🙂", "w", std::string(1, '\0'), "..", " "};
  std::string name;
  for (size_t i = random() % 6; i > 0; --i) name += kPieces[random() % kPieces.size()];
  return name;
}

std::vector<RandomTensor> random_model(std::mt19937& random) {
  static const std::vector<std::pair<std::string, unsigned>> kDtypes = {
      {"BF16", 16}, {"F32", 32}, {"U8", 8}, {"I64", 64}, {"F4", 4}, {"F6_E3M2", 6}, {"F8_E4M3", 8}};
  std::vector<RandomTensor> model;
  std::set<std::string> names;
  uint64_t end = 0;
  for (size_t i = random() % 20; i > 0; --i) {
    RandomTensor tensor;
    tensor.name = random_name(random);
    if (!names.insert(tensor.name).second || tensor.name == "__metadata__") continue;
    const auto& [dtype, bits] = kDtypes[random() % kDtypes.size()];
    tensor.dtype = dtype;
    for (size_t d = random() % 4; d > 0; --d) tensor.shape.push_back(random() % 5);
    uint64_t elements = 1;
    for (const uint64_t d : tensor.shape) elements *= d;
    if (elements * bits % 8 != 0) {
      tensor.shape.push_back(4);
      elements *= 4;
    }
    tensor.begin = end;
    end += elements * bits / 8;
    tensor.end = end;
    model.push_back(tensor);
  }
  return model;
}

std::string space(std::mt19937& random) { return std::vector<std::string>{"", "", " ", "\n", "\t\r"}[random() % 5]; }

std::string json_record(const RandomTensor& tensor, std::mt19937& random) {
  std::string shape;
  for (const uint64_t d : tensor.shape) shape += (shape.empty() ? "" : ",") + space(random) + std::to_string(d);
  std::vector<std::string> fields = {
      "\"dtype\":" + space(random) + json_text(tensor.dtype, random), "\"shape\":[" + shape + "]",
      fmt::format("\"data_offsets\":[{},{}{}]", tensor.begin, space(random), tensor.end)};
  if (random() % 4 == 0) fields.emplace_back(R"("later":{"dtype":[1,-2.5e3,"]}"],"shape":null})");
  std::shuffle(fields.begin(), fields.end(), random);
  std::string record;
  for (const auto& field : fields) record += (record.empty() ? "" : ",") + space(random) + field;
  return json_text(tensor.name, random) + ":{" + record + "}";
}

TEST(HeaderProperty, ARandomModelComesBackAsItWasWritten) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    std::mt19937 random(seed);
    const auto model = random_model(random);
    std::vector<std::string> members;
    std::map<std::string, std::string> metadata;
    for (const auto& tensor : model) members.push_back(json_record(tensor, random));
    if (random() % 2 == 0) {
      metadata = {{"format", "pt"}, {random_name(random) + "!", random_name(random)}};
      std::string texts;
      for (const auto& [key, value] : metadata) {
        texts += (texts.empty() ? "" : ",") + json_text(key, random) + ":" + json_text(value, random);
      }
      members.push_back("\"__metadata__\":{" + texts + "}");
    }
    std::shuffle(members.begin(), members.end(), random);
    std::string json = space(random) + "{";
    for (size_t i = 0; i < members.size(); ++i) json += (i == 0 ? "" : ",") + space(random) + members[i];
    json += space(random) + "}" + space(random);
    const uint64_t data = model.empty() ? 0 : model.back().end;

    auto source = memory(file_bytes(json, data));
    const auto header = SafetensorsHeader::read(source);
    ASSERT_TRUE(header) << seed << ": " << header.error().text() << "\n" << json;
    EXPECT_EQ(header->metadata(), metadata);
    ASSERT_EQ(header->tensors().size(), model.size());
    for (const auto& expected : model) {
      const TensorInfo* const found = header->find(expected.name);
      ASSERT_NE(found, nullptr);
      EXPECT_EQ(found->name, expected.name);
      EXPECT_EQ(dtype_name(found->dtype), expected.dtype);
      EXPECT_EQ(found->shape, expected.shape);
      EXPECT_EQ(found->begin, expected.begin);
      EXPECT_EQ(found->end, expected.end);
    }
    EXPECT_EQ(parse_error(json, data + 1), ErrorCode::kTrailingBytes);
    if (data > 0) {
      EXPECT_EQ(parse_error(json, data - 1), ErrorCode::kDataTruncated);
    }
  }
}

std::string large_header(size_t count, uint64_t step) {
  std::string json = "{";
  for (size_t i = 0; i < count; ++i) {
    json += fmt::format(R"({}"model.layers.{}.w":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})",
                        i == 0 ? "" : ",", i, i * step, i * step + 1);
  }
  return json + "}";
}

TEST(HeaderAtTheCap, AMillionTensorsAreParsedInBoundedTime) {
  constexpr size_t kCount = 1'000'000;
  const std::string json = large_header(kCount, 1);
  ASSERT_LE(json.size(), SafetensorsHeader::kMaxHeaderBytes);
  const std::clock_t start = std::clock();
  const auto header = SafetensorsHeader::parse(as_bytes(json), kCount);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  ASSERT_TRUE(header) << header.error().text();
  EXPECT_EQ(header->tensors().size(), kCount);
  EXPECT_EQ(header->find("model.layers.999999.w")->begin, 999'999U);
  RecordProperty("cpu_seconds", std::to_string(seconds));
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
  EXPECT_LT(seconds, 3.0) << "processor time; about 0.8 s on a desktop machine";
#endif
  EXPECT_EQ(parse_error(large_header(kCount / 10, 0), 1), ErrorCode::kInvalidOffset);
}

TEST(NameIndexTest, FindsNamesAndDuplicates) {
  const std::vector<std::string> names = {"b", "a", "", "long name with more than thirty-two characters", "a"};
  const auto name_of = [&](size_t i) -> const std::string& { return names[i]; };
  const NameIndex first_four(4, name_of);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(first_four.find(names[i], name_of), i);
  EXPECT_EQ(first_four.find("c", name_of), NameIndex::npos);
  EXPECT_EQ(first_four.duplicate(name_of), NameIndex::npos);
  EXPECT_EQ(NameIndex(5, name_of).duplicate(name_of), 4U);
  EXPECT_EQ(NameIndex().find("a", name_of), NameIndex::npos);
}

}  // namespace
}  // namespace weightfs
