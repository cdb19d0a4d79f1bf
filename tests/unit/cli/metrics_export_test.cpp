// SPDX-License-Identifier: Apache-2.0
#include "cli/metrics_export.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/metrics_file.h"

namespace weightfs::cli {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

constexpr auto kScrapeLimit = 20s;

std::string read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool comes_true(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kScrapeLimit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

class MetricsFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "weightfs-metrics-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ / "w.prom";
  }
  void TearDown() override { fs::remove_all(folder_); }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
  fs::path path_;
};

TEST_F(MetricsFile, IsReplacedReadableByAllAndAlone) {
  const mode_t before = ::umask(077);
  ASSERT_TRUE(replace_metrics_file(path_, "one\n"));
  ASSERT_TRUE(replace_metrics_file(path_, "two\n"));
  ::umask(before);
  EXPECT_EQ(read(path_), "two\n");
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0644u);
  EXPECT_EQ(files(), 1u);
}

TEST_F(MetricsFile, ReadersNeverSeeAPart) {
  const std::string texts[] = {std::string(50000, 'a'), std::string(80000, 'b')};
  ASSERT_TRUE(replace_metrics_file(path_, texts[0]));
  std::atomic<bool> ended{false};
  std::thread writer([&] {
    for (int i = 0; i < 300; ++i) EXPECT_TRUE(replace_metrics_file(path_, texts[i % 2]));
    ended = true;
  });
  while (!ended) {
    const std::string found = read(path_);
    if (found != texts[0] && found != texts[1]) ADD_FAILURE() << found.size() << " bytes";
  }
  writer.join();
}

TEST_F(MetricsFile, FailuresLeaveNothing) {
  EXPECT_EQ(replace_metrics_file(folder_ / "no" / "w.prom", "x").error().code, ErrorCode::kIoWrite);
  EXPECT_EQ(check_metrics_file(folder_ / "no" / "w.prom").error().code, ErrorCode::kIoWrite);
  fs::create_directory(path_);
  EXPECT_EQ(replace_metrics_file(path_, "x").error().code, ErrorCode::kIoWrite);
  EXPECT_EQ(check_metrics_file(path_).error().code, ErrorCode::kIoWrite);
  EXPECT_EQ(files(), 1u);
}

TEST_F(MetricsFile, CheckingChangesNothing) {
  ASSERT_TRUE(check_metrics_file(path_));
  EXPECT_EQ(files(), 0u);
  ASSERT_TRUE(replace_metrics_file(path_, "x"));
  ASSERT_TRUE(check_metrics_file(path_));
  EXPECT_EQ(read(path_), "x");
}

TEST_F(MetricsFile, IsWrittenAtOnceByTheClockAndWhenPokedAndThenGone) {
  std::atomic<int> asked{0};
  const auto text = [&] { return std::to_string(++asked); };
  {
    auto slow = MetricsExport::open({path_, {}, 0}, 1h);
    ASSERT_TRUE(slow);
    EXPECT_FALSE(fs::exists(path_));
    (*slow)->start(text);
    EXPECT_EQ(read(path_), "1");
    (*slow)->poke();
    EXPECT_TRUE(comes_true([&] { return read(path_) == "2"; }));
    const auto start = std::chrono::steady_clock::now();
    (*slow)->stop();
    EXPECT_LT(std::chrono::steady_clock::now() - start, kScrapeLimit);
    EXPECT_EQ(files(), 0u);
    (*slow)->poke();
    (*slow)->stop();
    EXPECT_EQ(asked, 2);
  }
  auto quick = MetricsExport::open({path_, {}, 0}, 5ms);
  ASSERT_TRUE(quick);
  (*quick)->start(text);
  EXPECT_TRUE(comes_true([&] { return asked > 10; }));
  quick->reset();
  EXPECT_EQ(files(), 0u);
}

TEST_F(MetricsFile, AFolderThatGoesAndComesAgain) {
  const fs::path inner = folder_ / "in";
  fs::create_directory(inner);
  auto made = MetricsExport::open({inner / "w.prom", {}, 0}, 5ms);
  ASSERT_TRUE(made);
  (*made)->start([] { return std::string("x"); });
  fs::remove_all(inner);
  std::this_thread::sleep_for(20ms);
  fs::create_directory(inner);
  EXPECT_TRUE(comes_true([&] { return read(inner / "w.prom") == "x"; }));
}

// --- the port -------------------------------------------------------------------------------------

sockaddr_in local(uint16_t port) {
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(port);
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return place;
}

/// One that was free a moment ago.
uint16_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in place = local(0);
  socklen_t size = sizeof place;
  ::bind(socket, reinterpret_cast<sockaddr*>(&place), size);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&place), &size);
  ::close(socket);
  return ntohs(place.sin_port);
}

int connect_to(uint16_t port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in place = local(port);
  if (::connect(socket, reinterpret_cast<const sockaddr*>(&place), sizeof place) == 0) return socket;
  ::close(socket);
  return -1;
}

std::string ask(uint16_t port, const std::string& request) {
  const int socket = connect_to(port);
  if (socket < 0) return "no connection";
  EXPECT_EQ(::send(socket, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  std::string answer;
  char piece[4096];
  for (ssize_t got = 0; (got = ::recv(socket, piece, sizeof piece, 0)) > 0;)
    answer.append(piece, static_cast<size_t>(got));
  ::close(socket);
  return answer;
}

std::string request(const std::string& first) { return first + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"; }

class MetricsPort : public testing::Test {
 protected:
  void SetUp() override {
    for (int attempt = 0; attempt < 20 && !export_; ++attempt) {
      port_ = free_port();
      if (auto made = MetricsExport::open({{}, "127.0.0.1", port_})) export_ = std::move(*made);
    }
    ASSERT_TRUE(export_);
  }
  void start() {
    export_->start([this] { return "asked " + std::to_string(++asked_) + "\n"; });
  }

  uint16_t port_ = 0;
  std::atomic<int> asked_{0};
  std::unique_ptr<MetricsExport> export_;
};

TEST_F(MetricsPort, AnswersGetAndHeadOfOnePath) {
  start();
  const std::string got = ask(port_, request("GET /metrics"));
  EXPECT_THAT(got, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(got, HasSubstr("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_THAT(got, EndsWith("\r\n\r\nasked 1\n"));
  const std::string head = ask(port_, request("HEAD /metrics"));
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(head, HasSubstr("\r\nContent-Length: 8\r\n"));
  EXPECT_THAT(head, EndsWith("\r\n\r\n"));
  EXPECT_THAT(ask(port_, request("GET /metrics?x=1")), StartsWith("HTTP/1.1 200 "));
}

TEST_F(MetricsPort, EverythingElseIsNotFound) {
  start();
  for (const char* first :
       {"GET /", "GET /metrics/", "GET /metricsx", "POST /metrics", "PUT /metrics", "DELETE /metrics"}) {
    EXPECT_THAT(ask(port_, request(first)), StartsWith("HTTP/1.1 404 ")) << first;
  }
  const std::string body = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc";
  EXPECT_THAT(ask(port_, body), StartsWith("HTTP/1.1 404 "));
  EXPECT_EQ(asked_, 0);
}

TEST_F(MetricsPort, GarbageAndEndlessHeadersEnd) {
  start();
  ask(port_, "\x01\xff \xfe\r\n\r\n");
  const std::string endless = "GET /metrics HTTP/1.1\r\nX: " + std::string(100000, 'a');
  const int socket = connect_to(port_);
  ASSERT_GE(socket, 0);
  ::send(socket, endless.data(), endless.size(), MSG_NOSIGNAL);
  ::close(socket);
  EXPECT_THAT(ask(port_, request("GET /metrics")), StartsWith("HTTP/1.1 200 "));
}

TEST_F(MetricsPort, WhoSaysNothingKeepsNobodyWaitingAndStopDoesNotWait) {
  start();
  std::vector<int> silent;
  for (int i = 0; i < 5; ++i) silent.push_back(connect_to(port_));
  ASSERT_EQ(::send(silent[0], "GET /met", 8, MSG_NOSIGNAL), 8);
  const auto before = std::chrono::steady_clock::now();
  EXPECT_THAT(ask(port_, request("GET /metrics")), StartsWith("HTTP/1.1 200 "));
  export_->stop();
  EXPECT_LT(std::chrono::steady_clock::now() - before, 4s) << "the library's own limit is 5 s";
  EXPECT_LT(connect_to(port_), 0);
  for (const int socket : silent) ::close(socket);
}

TEST_F(MetricsPort, APortInUseIsAnError) {
  for (const bool started : {false, true}) {
    if (started) start();
    const auto second = MetricsExport::open({{}, "127.0.0.1", port_});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, ErrorCode::kMountFailed);
  }
  export_->stop();
  EXPECT_TRUE(MetricsExport::open({{}, "127.0.0.1", port_})) << "free again at once";
}

TEST_F(MetricsPort, AnAddressThatIsNotOursIsAnError) {
  const auto made = MetricsExport::open({{}, "192.0.2.1", port_});  // for documentation: nobody has it
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kMountFailed);
}

TEST_F(MetricsPort, ManyAtOnce) {
  start();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int k = 0; k < 50; ++k) EXPECT_THAT(ask(port_, request("GET /metrics")), HasSubstr("asked "));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(asked_, 200);
}

}  // namespace
}  // namespace weightfs::cli
