#include "ctl/nbd_uri.h"

#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <string>

#include "absl/status/status.h"

namespace nbdinetd::ctl {
namespace {

struct Row {
  const char* text;
  const char* host;
  const char* port;
  std::string socket;
  std::string export_name;
  bool tls = false;
};

TEST(NbdUri, SaysWhereAServerIs) {
  for (const Row& row : {
           Row{"nbd://example.com/disk", "example.com", "10809", "", "disk"},
           Row{"nbd://example.com:10810/disk", "example.com", "10810", "",
               "disk"},
           Row{"NBD://example.com", "example.com", "10809", "", ""},
           Row{"nbd://example.com/", "example.com", "10809", "", ""},
           Row{"nbd://example.com//disk", "example.com", "10809", "", "/disk"},
           Row{"nbd://example.com/a%20b/c", "example.com", "10809", "",
               "a b/c"},
           Row{"nbd://[::1]:10810/x", "::1", "10810", "", "x"},
           Row{"nbd://[::1]/x", "::1", "10809", "", "x"},
           // As a script writes it that doesn't look at its address.
           Row{"nbd://[192.0.2.1]:10809/x", "192.0.2.1", "10809", "", "x"},
           Row{"nbd://me@example.com/", "example.com", "10809", "", ""},
           Row{"nbd:///x", "localhost", "10809", "", "x"},
           Row{"nbds://example.com/x", "example.com", "10809", "", "x", true},
           Row{"nbd+unix:///x?socket=/run/nbd.sock", "", "", "/run/nbd.sock",
               "x"},
           Row{"nbd+unix:///?socket=%00name", "", "", std::string("\0name", 5),
               ""},
           Row{"nbds+unix:///x?socket=s", "", "", "s", "x", true},
           Row{"nbd+unix://me@/x?socket=s", "", "", "s", "x"},
           Row{"nbd://h/x#part", "h", "10809", "", "x"},
       }) {
    const absl::StatusOr<NbdUri> uri = ParseNbdUri(row.text);
    ASSERT_TRUE(uri.ok()) << row.text << ": " << uri.status();
    EXPECT_EQ(uri->host, row.host) << row.text;
    EXPECT_EQ(uri->port, row.port) << row.text;
    EXPECT_EQ(uri->socket, row.socket) << row.text;
    EXPECT_EQ(uri->export_name, row.export_name) << row.text;
    EXPECT_EQ(uri->tls.has_value(), row.tls) << row.text;
  }
}

struct TlsRow {
  const char* text;
  std::string hostname;
  std::string psk_identity;
  std::string psk_file;
  std::string certificates;
  bool verify_peer = true;
};

TEST(NbdUri, SaysWhoIsExpectedAndWhoAsks) {
  const passwd* me = getpwuid(geteuid());
  ASSERT_NE(me, nullptr);
  for (const TlsRow& row : {
           TlsRow{"nbds://h/", "h", "", "", ""},
           TlsRow{"nbds://[::1]/?tls-certificates=/c%20d", "::1", "", "",
                  "/c d"},
           TlsRow{"nbds://a%40b@h/?tls-psk-file=k", "h", "a@b", "k", ""},
           TlsRow{"nbds://h/?tls-psk-file=k", "h", me->pw_name, "k", ""},
           TlsRow{"nbds+unix://u@/?socket=s&tls-psk-file=k", "", "u", "k", ""},
           TlsRow{"nbds+unix:///?tls-hostname=h&socket=s", "h", "", "", ""},
           TlsRow{"nbds://h/?tls-hostname=g&tls-verify-peer=0", "g", "", "", "",
                  false},
           TlsRow{"nbds://h/?tls-verify-peer=true", "h", "", "", ""},
           // What no certificate has.
           TlsRow{"nbds://h.example.com./", "h.example.com", "", "", ""},
           TlsRow{"nbds://[fe80::1%25eth0]/", "fe80::1", "", "", ""},
       }) {
    const absl::StatusOr<NbdUri> uri = ParseNbdUri(row.text);
    ASSERT_TRUE(uri.ok()) << row.text << ": " << uri.status();
    ASSERT_TRUE(uri->tls.has_value()) << row.text;
    EXPECT_EQ(uri->tls->hostname, row.hostname) << row.text;
    EXPECT_EQ(uri->tls->psk_identity, row.psk_identity) << row.text;
    EXPECT_EQ(uri->tls->psk_file, row.psk_file) << row.text;
    EXPECT_EQ(uri->tls->certificates, row.certificates) << row.text;
    EXPECT_EQ(uri->tls->verify_peer, row.verify_peer) << row.text;
  }
}

TEST(NbdUri, RefusesWhatIsNone) {
  for (const std::string& text :
       {std::string(""),
        std::string("example.com"),
        std::string("http://h/x"),
        std::string("nbd:/h/x"),
        std::string("+unix:///x?socket=s"),
        std::string("nbd://h:0/x"),
        std::string("nbd://h:65536/x"),
        std::string("nbd://h:x/"),
        std::string("nbd://::1/x"),
        std::string("nbd://[::1/x"),
        std::string("nbd://[::1]10809/x"),
        std::string("nbd://h/%"),
        std::string("nbd://h/%0"),
        std::string("nbd://h/%+1"),
        std::string("nbd://h/x?socket=s"),
        std::string("nbd://h/x?tls-type=psk"),
        std::string("nbds://h/x?tls-type=psk"),
        std::string("nbd://h/x?tls-hostname=h"),
        std::string("nbds://h/x?tls-hostname="),
        std::string("nbds://h/x?tls-hostname=a%00b"),
        std::string("nbds://h/x?tls-certificates"),
        std::string("nbds://h/x?tls-psk-file=%"),
        std::string("nbds://h/x?tls-verify-peer=no"),
        std::string("nbds://%/x"),
        std::string("nbds://.example.com/x"),
        "nbds://h/x?tls-hostname=" + std::string(254, 'a'),
        std::string("nbds+unix://me@h/x?socket=s"),
        std::string("nbd+unix:///x"),
        std::string("nbd+unix:///x?socket="),
        std::string("nbd+unix://h/x?socket=s"),
        std::string("nbd+unix:///x?socket=a%00b"),
        std::string("nbd+unix:///x?socket=%"),
        "nbd+unix:///x?socket=" + std::string(108, 'a'),
        "nbd://h/" + std::string(4097, 'x'),
        std::string("nbd://%00/x")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseNbdUri(text).status())) << text;
  }
}

}  // namespace
}  // namespace nbdinetd::ctl
