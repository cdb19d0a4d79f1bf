// SPDX-License-Identifier: Apache-2.0
#include "fuse/attachment.h"

#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "attach/kernel_mount.h"
#include "unit/attach/supervising.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

using std::chrono::milliseconds;

constexpr int32_t kResend = 7;

/// What stands in for /dev/fuse: what is written comes out of the other end, message by message.
class FakeDevice {
 public:
  FakeDevice() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    device_ = Descriptor(ends[0]);
    kernel_ = Descriptor(ends[1]);
  }
  int get() const { return device_.get(); }
  /// What was written; empty when nothing was.
  std::string next() const {
    std::string message(4096, '\0');
    const ssize_t got = ::recv(kernel_.get(), message.data(), message.size(), MSG_DONTWAIT);
    message.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return message;
  }
  bool next_is_resend() const {
    const std::string message = next();
    fuse_out_header header{};
    if (message.size() != sizeof header) return false;
    std::memcpy(&header, message.data(), sizeof header);
    return header.unique == 0 && header.error == kResend && header.len == sizeof header;
  }

 private:
  Descriptor device_;
  Descriptor kernel_;
};

class AttachmentTest : public ::testing::Test {
 protected:
  /// A process that takes part in a connection on which `reply` was the first one's answer; empty: it is the first.
  Attachment& begin(const std::string& reply) {
    Orders orders;
    orders.init_request = "the kernel's INIT";
    orders.init_reply = reply;
    orders.board = supervisor_.board;
    attachment_ = std::make_unique<Attachment>(*supervisor_.link, orders);
    return *attachment_;
  }
  /// In two parts, as libfuse does it.
  bool answer(const std::string& reply, int device) {
    const std::string_view text = reply;
    const std::array<iovec, 2> parts{part(text.substr(0, 3)), part(text.substr(3))};
    return attachment_->answer(device, parts);
  }
  static iovec part(std::string_view text) { return {const_cast<char*>(text.data()), text.size()}; }  // NOLINT: read
  std::optional<std::string> first_message(size_t room = 100) const {
    std::vector<std::byte> buffer(room);
    const auto got = attachment_->first_message(buffer);
    if (!got) return std::nullopt;
    return std::string(reinterpret_cast<const char*>(buffer.data()), *got);
  }
  std::string said_to_supervisor() const {
    const Message said = supervisor_.hear();
    EXPECT_EQ(said.kind, Message::Kind::kAttached);
    return said.bytes;
  }

  FakeSupervisor supervisor_;
  FakeDevice device_;
  std::unique_ptr<Attachment> attachment_;
};

TEST_F(AttachmentTest, TheFirstThreadGetsInitAndTheOthersWait) {
  begin({});
  EXPECT_EQ(first_message(), "the kernel's INIT");
  std::atomic<int> served{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      EXPECT_EQ(first_message(), std::nullopt);
      ++served;
    });
  }
  ASSERT_TRUE(answer("reply", device_.get()));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(served.load(), 0);
  attachment_->open(device_.get());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(first_message(), std::nullopt);
}

TEST_F(AttachmentTest, ASmallBufferIsNotOverrun) {
  begin({});
  EXPECT_EQ(first_message(10), "the kernel");
}

TEST_F(AttachmentTest, TheFirstProcessAnswersTheKernel) {
  begin({});
  EXPECT_TRUE(answer("reply", device_.get()));
  EXPECT_EQ(device_.next(), "reply");
  EXPECT_EQ(said_to_supervisor(), "reply");
  attachment_->open(device_.get());
  EXPECT_EQ(device_.next(), "");  // nothing was lost
  EXPECT_EQ(attachment_->problem(), "");
}

TEST_F(AttachmentTest, ALaterOneAgreesAndAsksForWhatWasLost) {
  begin("reply");
  EXPECT_TRUE(answer("reply", device_.get()));
  EXPECT_EQ(device_.next(), "");
  EXPECT_EQ(said_to_supervisor(), "reply");
  attachment_->open(device_.get());
  EXPECT_TRUE(device_.next_is_resend());
  EXPECT_EQ(device_.next(), "");
}

TEST_F(AttachmentTest, ALaterOneThatAgreesOnSomethingElseEnds) {
  for (const char* reply : {"replx", "repl", "reply2"}) {
    begin("reply");
    EXPECT_EQ(first_message(), "the kernel's INIT");
    std::thread waits([&] { EXPECT_EQ(first_message(), std::nullopt); });
    EXPECT_FALSE(answer(reply, device_.get()));
    EXPECT_NE(attachment_->problem().find("unmount and mount again"), std::string::npos);
    waits.join();  // nobody waits for ever
    EXPECT_EQ(device_.next(), "");
  }
}

/// A mount of the real kernel, which has asked INIT.
class RealMount {
 public:
  RealMount() {
    auto mount = kernel_mount({.mount_point = folder_.path(), .source = "test"});
    if (!mount) return;
    device_ = std::move(mount->device);
    std::array<char, 64 << 10> request{};
    if (::read(device_.get(), request.data(), request.size()) <= 0) return;
    std::memcpy(&header_, request.data(), sizeof header_);
    std::memcpy(&init_, request.data() + sizeof header_, sizeof init_);
  }
  ~RealMount() {
    if (device_) static_cast<void>(kernel_unmount(folder_.path(), Unmount::kDetach));
  }
  int device() const { return device_.get(); }
  bool is_there() const { return header_.opcode == FUSE_INIT; }
  /// A right answer.
  std::string reply() const {
    const fuse_out_header header{sizeof(fuse_out_header) + sizeof(fuse_init_out), 0, header_.unique};
    fuse_init_out init{};
    init.major = init_.major;
    init.minor = init_.minor;
    init.max_write = 1 << 17;
    std::string text(header.len, '\0');
    std::memcpy(text.data(), &header, sizeof header);
    std::memcpy(text.data() + sizeof header, &init, sizeof init);
    return text;
  }

 private:
  const TempFolder folder_;
  Descriptor device_;
  fuse_in_header header_{};
  fuse_init_in init_{};
};

TEST_F(AttachmentTest, AKernelThatWaitsForNoAnswerHasHadOne) {
  const RealMount mount;
  if (!mount.is_there()) GTEST_SKIP() << "no mount can be made here";
  begin({});
  EXPECT_TRUE(answer(mount.reply(), mount.device()));
  begin({});  // that one died before it told the supervisor of its answer
  EXPECT_TRUE(answer(mount.reply(), mount.device()));
  EXPECT_EQ(attachment_->problem(), "");
  EXPECT_EQ(said_to_supervisor(), mount.reply());
  EXPECT_EQ(said_to_supervisor(), mount.reply());
  attachment_->open(device_.get());
  EXPECT_TRUE(device_.next_is_resend());
}

TEST_F(AttachmentTest, AnAnswerThatTheKernelDoesNotUnderstand) {
  const RealMount mount;
  if (!mount.is_there()) GTEST_SKIP() << "no mount can be made here";
  begin({});
  EXPECT_FALSE(answer("nonsense that is no reply", mount.device()));
  EXPECT_NE(attachment_->problem().find("the kernel refuses the answer to INIT"), std::string::npos);
}

TEST_F(AttachmentTest, AKernelThatRefusesTheAnswer) {
  begin({});
  EXPECT_FALSE(answer("reply", -1));
  EXPECT_NE(attachment_->problem().find("the kernel refuses the answer to INIT"), std::string::npos);
  EXPECT_EQ(first_message(), "the kernel's INIT");
  EXPECT_EQ(first_message(), std::nullopt);
}

TEST_F(AttachmentTest, NobodyReadsBeforeTheKernelWasAskedToSendAgain) {
  for (int turn = 0; turn < 200; ++turn) {
    begin("reply");
    EXPECT_TRUE(first_message().has_value());
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] {
        EXPECT_EQ(first_message(), std::nullopt);
        char marker = 'r';  // whoever reads the device now
        EXPECT_EQ(::write(device_.get(), &marker, 1), 1);
      });
    }
    EXPECT_TRUE(answer("reply", device_.get()));
    attachment_->open(device_.get());
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(device_.next_is_resend());
    for (int i = 0; i < 3; ++i) EXPECT_EQ(device_.next(), "r");
  }
}

TEST_F(AttachmentTest, ADeviceThatCannotSendAgainIsNoEnd) {
  begin("reply");
  EXPECT_TRUE(answer("reply", -1));
  attachment_->open(-1);
  EXPECT_TRUE(first_message().has_value());
  EXPECT_EQ(first_message(), std::nullopt);
}

TEST_F(AttachmentTest, ItsGuardKnowsTheSuspects) {
  Orders orders;
  orders.init_request = "INIT";
  orders.board = supervisor_.board;
  orders.suspects = {{17, true}};
  Attachment attachment(*supervisor_.link, orders);
  std::thread([&] {  // one that ends before the board does
    fuse_in_header header{};
    header.unique = 17;
    EXPECT_FALSE(attachment.guard().taken(header, {}));
    header.unique = 18;
    EXPECT_TRUE(attachment.guard().taken(header, {}));
    attachment.guard().idle();
  })
      .join();
}

}  // namespace
}  // namespace weightfs::test
