// What a server may answer to a probe, byte by byte.
#include "ctl/export_probe.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "protocol/option.h"
#include "stream/channel.h"
#include "support/memory_stream.h"
#include "support/plain_tls.h"
#include "support/wire.h"

namespace nbdinetd::ctl {
namespace {

using nbdtest::Bytes;
using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;
using nbdtest::Writer;

constexpr uint64_t kSize = 1 << 20;
constexpr uint64_t kReadCookie = 0x70726f6265;

// What a server would say to the option of a probe.
Bytes Serves(NbdOption option, uint64_t size = kSize) {
  OptionReplies replies(option);
  replies.InfoBlockSize(1, 4096, 1 << 25);
  replies.InfoExport(size, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY);
  replies.Ack();
  return replies.bytes();
}

Bytes ReadReply(uint32_t error, size_t bytes) {
  return Writer()
             .U32(NBD_SIMPLE_REPLY_MAGIC)
             .U32(error)
             .U64(kReadCookie)
             .bytes() +
         Bytes(bytes, 'x');
}

class ExportProbeTest : public testing::Test {
 protected:
  // What the probe says of a server that sends these bytes, in all.
  absl::StatusOr<ExportInformation> Probe(const Bytes& bytes, bool read = false,
                                          bool ends = true) {
    MemoryPeer peer;
    peer.LimitReads(at_once_);
    peer.Send(bytes);
    if (ends) peer.Close();
    Channel channel(std::make_unique<MemoryStream>(peer), -1);
    channel.BeginHandshake(SteadyNow() + time_);
    ExportProbe probe(channel);
    absl::Status status = probe.Greet();
    if (status.ok() && tls_.has_value()) status = probe.StartTls(*tls_);
    if (!status.ok()) return status;
    absl::StatusOr<ExportInformation> result =
        read ? probe.Read("golden") : probe.Ask("golden");
    sent_ = peer.Receive();
    return result;
  }

  std::string Says(const Bytes& bytes, bool read = false, bool ends = true) {
    return std::string(Probe(bytes, read, ends).status().message());
  }

  absl::Duration time_ = absl::Seconds(100);
  std::optional<nbdtest::PlainTls> tls_;
  size_t at_once_ = SIZE_MAX;  // the most bytes that a read takes
  Bytes sent_;
};

const Bytes kGreeting = EncodeGreeting();

TEST_F(ExportProbeTest, AsksByAnOptionThatClaimsNothing) {
  const auto information = Probe(kGreeting + Serves(NBD_OPT_INFO));
  ASSERT_TRUE(information.ok()) << information.status();
  EXPECT_EQ(information->size_bytes, kSize);
  EXPECT_EQ(information->transmission_flags,
            NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY);
  EXPECT_EQ(sent_, EncodeClientFlags(NBD_FLAG_C_FIXED_NEWSTYLE) +
                       EncodeOption(NBD_OPT_INFO, EncodeInfoRequest("golden")) +
                       EncodeOption(NBD_OPT_ABORT, ""));
}

TEST_F(ExportProbeTest, ReadsTheFirstSectorAndDisconnects) {
  struct Row {
    uint64_t size;
    uint32_t length;
  };
  for (const Row& row : {Row{kSize, 512}, Row{100, 100}, Row{0, 0}}) {
    const auto information =
        Probe(kGreeting + Serves(NBD_OPT_GO, row.size) +
                  (row.length == 0 ? Bytes() : ReadReply(0, row.length)),
              /*read=*/true);
    ASSERT_TRUE(information.ok()) << information.status();
    EXPECT_EQ(sent_,
              EncodeClientFlags(NBD_FLAG_C_FIXED_NEWSTYLE) +
                  EncodeOption(NBD_OPT_GO, EncodeInfoRequest("golden")) +
                  (row.length == 0 ? ""
                                   : EncodeRequest(NBD_CMD_READ, kReadCookie, 0,
                                                   row.length)) +
                  EncodeRequest(NBD_CMD_DISC, 0, 0, 0));
  }
}

TEST_F(ExportProbeTest, SaysHowTheGreetingFailed) {
  EXPECT_EQ(Says(""),
            "the server closed the connection instead of sending its greeting");
  EXPECT_EQ(Says("SSH-2.0-OpenSSH_9.2p1\r\n"),
            "what answers there is no NBD server");
  EXPECT_EQ(Says(kGreeting.substr(0, 16) + Bytes(2, 0)),
            "the server doesn't know the fixed newstyle negotiation");
  EXPECT_EQ(Says(Writer().U64(NBD_MAGIC).U64(0x00420281861253).U64(0).bytes()),
            "the server doesn't know the fixed newstyle negotiation");
}

TEST_F(ExportProbeTest, SaysWhatTheServerRefuses) {
  struct Row {
    NbdOptionReply type;
    const char* sentence;
    const char* says;
  };
  for (const Row& row :
       {Row{NBD_REP_ERR_UNKNOWN, "",
            "the server has no export \"golden\" (NBD_REP_ERR_UNKNOWN)"},
        Row{NBD_REP_ERR_POLICY, "in use",
            "the server refuses the export \"golden\" (NBD_REP_ERR_POLICY): "
            "\"in use\""},
        Row{NBD_REP_ERR_TLS_REQD, "",
            "the server requires TLS: probe it as nbds:// "
            "(NBD_REP_ERR_TLS_REQD)"},
        Row{NBD_REP_ERR_SHUTDOWN, "",
            "the server is shutting down (NBD_REP_ERR_SHUTDOWN)"},
        Row{NBD_REP_ERR_UNSUP, "",
            "the server doesn't support NBD_OPT_INFO (NBD_REP_ERR_UNSUP)"},
        // What a server sends is no command to a terminal.
        Row{NBD_REP_ERR_INVALID, "\x1b[2J\n",
            "the server refuses the export \"golden\" (NBD_REP_ERR_INVALID): "
            "\"\\033[2J\\n\""}}) {
    OptionReplies replies(NBD_OPT_INFO);
    replies.Error(row.type, row.sentence);
    EXPECT_EQ(Says(kGreeting + replies.bytes()), row.says);
  }
}

TEST_F(ExportProbeTest, SaysHowTheServerBrokeTheProtocol) {
  OptionReplies ack(NBD_OPT_INFO);
  ack.Ack();
  OptionReplies other(NBD_OPT_GO);
  other.Ack();
  const auto header = [](uint32_t type, uint32_t length) {
    return Writer()
        .U64(NBD_OPT_REPLY_MAGIC)
        .U32(NBD_OPT_INFO)
        .U32(type)
        .U32(length)
        .bytes();
  };
  for (const Bytes& reply :
       {ack.bytes(), other.bytes(), Bytes(20, 'x'), header(NBD_REP_SERVER, 0),
        header(NBD_REP_INFO, 1) + "x", header(NBD_REP_INFO, 0),
        header(NBD_REP_INFO, 0xffffffff),
        header(NBD_REP_ERR_UNKNOWN, kMaxProbeReplyBytes + 1)}) {
    EXPECT_EQ(Says(kGreeting + reply).substr(0, 29),
              "the server broke the protocol");
  }
  Bytes many = kGreeting;
  for (int i = 0; i < 2 * kMaxProbeReplies; ++i) {
    many += header(NBD_REP_INFO, 2) + Bytes("\0\77", 2);
  }
  EXPECT_EQ(Says(many),
            "the server broke the protocol: too many replies to one option");
}

TEST_F(ExportProbeTest, SaysHowTheReadFailed) {
  const Bytes go = kGreeting + Serves(NBD_OPT_GO);
  EXPECT_EQ(
      Says(go + ReadReply(NBD_EIO, 0), true),
      "the server failed to read the first sector: NBD error 5 (NBD_EIO)");
  EXPECT_EQ(Says(go + Bytes(16, 'x'), true),
            "the server broke the protocol: not a reply to the read");
  EXPECT_EQ(Says(go, true),
            "the server closed the connection instead of sending a reply to "
            "the read");
  EXPECT_EQ(Says(go + ReadReply(0, 511), true),
            "the server closed the connection instead of sending the first "
            "sector");
}

// A server's answer to NBD_OPT_STARTTLS.
Bytes StartTlsReply(uint32_t type, const Bytes& payload = "") {
  return Writer()
             .U64(NBD_OPT_REPLY_MAGIC)
             .U32(NBD_OPT_STARTTLS)
             .U32(type)
             .U32(static_cast<uint32_t>(payload.size()))
             .bytes() +
         payload;
}

TEST_F(ExportProbeTest, GoesOnOverTls) {
  tls_.emplace();
  // The bytes of both phases would be in the input at once.
  at_once_ = 1;
  const auto information =
      Probe(kGreeting + StartTlsReply(NBD_REP_ACK) + Serves(NBD_OPT_INFO));
  ASSERT_TRUE(information.ok()) << information.status();
  EXPECT_EQ(information->size_bytes, kSize);
  EXPECT_EQ(sent_, EncodeClientFlags(NBD_FLAG_C_FIXED_NEWSTYLE) +
                       EncodeOption(NBD_OPT_STARTTLS, "") +
                       EncodeOption(NBD_OPT_INFO, EncodeInfoRequest("golden")) +
                       EncodeOption(NBD_OPT_ABORT, ""));
}

TEST_F(ExportProbeTest, OverTlsItIsntToldToUseTls) {
  tls_.emplace();
  at_once_ = 1;
  OptionReplies refuses(NBD_OPT_INFO);
  refuses.Error(NBD_REP_ERR_TLS_REQD, "");
  EXPECT_EQ(Says(kGreeting + StartTlsReply(NBD_REP_ACK) + refuses.bytes()),
            "the server refuses the export \"golden\" (NBD_REP_ERR_TLS_REQD)");
}

TEST_F(ExportProbeTest, NeverGoesOnWithoutTls) {
  struct Row {
    Bytes reply;
    const char* says;
  };
  tls_.emplace();
  for (const Row& row :
       {Row{StartTlsReply(NBD_REP_ERR_UNSUP),
            "the server doesn't support NBD_OPT_STARTTLS (NBD_REP_ERR_UNSUP)"},
        Row{StartTlsReply(NBD_REP_ERR_POLICY, "not today"),
            "the server refuses TLS (NBD_REP_ERR_POLICY): \"not today\""},
        Row{StartTlsReply(NBD_REP_ACK, "x"),
            "the server broke the protocol: a malformed reply to the option"},
        Row{StartTlsReply(NBD_REP_INFO),
            "the server broke the protocol: a malformed reply to the option"},
        Row{Serves(NBD_OPT_INFO),
            "the server broke the protocol: not a reply to the option"},
        Row{Bytes(),
            "the server closed the connection instead of sending a reply to "
            "the option"},
        // What somebody between has added, to be believed later.
        Row{StartTlsReply(NBD_REP_ACK) + Serves(NBD_OPT_INFO),
            "the server broke the protocol: bytes between the reply to "
            "NBD_OPT_STARTTLS and TLS"}}) {
    EXPECT_EQ(Says(kGreeting + row.reply), row.says);
  }
}

TEST_F(ExportProbeTest, SaysHowTheTlsHandshakeFailed) {
  const Bytes starts = kGreeting + StartTlsReply(NBD_REP_ACK);
  tls_.emplace(-EPROTO);
  EXPECT_EQ(Says(starts), "the handshake failed");
  tls_.emplace(-EAGAIN);
  time_ = absl::Milliseconds(30);
  EXPECT_EQ(Says(starts, /*read=*/false, /*ends=*/false),
            "the server didn't finish the TLS handshake in time");
}

TEST_F(ExportProbeTest, AServerThatStopsHasItsTimeAndNoMore) {
  time_ = absl::Milliseconds(30);
  const Bytes all = kGreeting + Serves(NBD_OPT_GO) + ReadReply(0, 512);
  for (size_t cut = 0; cut < all.size(); ++cut) {
    if (cut > 60 && cut % 16 != 0) continue;
    const std::string says =
        Says(all.substr(0, cut), /*read=*/true, /*ends=*/false);
    EXPECT_EQ(says.substr(says.size() - 8), " in time") << cut << says;
  }
}

}  // namespace
}  // namespace nbdinetd::ctl
