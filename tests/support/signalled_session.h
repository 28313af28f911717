// Tests of what a signal does to a connection: a session over an image with the
// pattern, and requests that are under way when the signal comes.

#ifndef NBDINETD_TESTS_SUPPORT_SIGNALLED_SESSION_H_
#define NBDINETD_TESTS_SUPPORT_SIGNALLED_SESSION_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/session.h"

namespace nbdtest {

inline constexpr uint64_t kImageSize = 4 << 20;
inline constexpr uint32_t kPage = 4096;

class SignalledSession : public testing::Test {
 protected:
  Peer& Start(std::vector<std::string> arguments = {},
              SessionSetup setup = {}) {
    arguments.push_back(image_.path());
    session_.emplace(std::move(arguments), setup);
    return session_->peer();
  }
  Peer& StartTransmission(Style style, SessionSetup setup = {},
                          std::vector<std::string> arguments = {}) {
    Start(std::move(arguments), setup).EnterTransmission(style);
    return session_->peer();
  }
  Session& session() { return *session_; }
  Peer& peer() { return session_->peer(); }
  const TempImage& image() const { return image_; }

  void Signal(int number) { session_->server().Signal(number); }

  // The server closes and ends with success; the end is logged.
  void ExpectEnd() {
    EXPECT_TRUE(ExitedWith(session_->WaitForExit(), kExitOk));
  }

  // Reads with the cookies from 1 to kReads, of kReadLength each at the
  // multiples of kPage: more replies than the socket holds, so that a signal
  // comes amid them.
  static constexpr uint64_t kReads = 200;
  static constexpr uint32_t kReadLength = 65536;
  void SendReads() {
    Bytes batch;
    for (uint64_t i = 0; i < kReads; ++i) {
      batch += peer().Prepare({.type = kCmdRead,
                               .offset = i * kPage,
                               .length = kReadLength,
                               .cookie = i + 1});
    }
    peer().SendWithoutReading(batch);
    EXPECT_FALSE(peer().AtEnd());
  }
  void ExpectData(uint64_t cookie, const Reply& reply) {
    EXPECT_TRUE(
        SameBytes(reply.data, Pattern((cookie - 1) * kPage, kReadLength)));
  }

  // The client never stops asking: there is always a request in the server's
  // receive buffer. Each of them is small, so that the server has nothing to
  // wait for.
  void AskUntilTheEnd(Style style) {
    Bytes batch;
    for (int i = 0; i < 2000; ++i) {
      batch +=
          RequestMessage(style, {.type = kCmdRead, .length = 1, .cookie = 7});
    }
    EXPECT_TRUE(peer().SendsUntilTheEnd(batch));
  }

 private:
  TempImage image_ = TempImage::WithPattern(kImageSize);
  std::optional<Session> session_;
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_SIGNALLED_SESSION_H_
