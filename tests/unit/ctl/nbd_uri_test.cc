#include "ctl/nbd_uri.h"

#include <gtest/gtest.h>

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
           Row{"nbd://h/x#part", "h", "10809", "", "x"},
       }) {
    const absl::StatusOr<NbdUri> uri = ParseNbdUri(row.text);
    ASSERT_TRUE(uri.ok()) << row.text << ": " << uri.status();
    EXPECT_EQ(uri->host, row.host) << row.text;
    EXPECT_EQ(uri->port, row.port) << row.text;
    EXPECT_EQ(uri->socket, row.socket) << row.text;
    EXPECT_EQ(uri->export_name, row.export_name) << row.text;
    EXPECT_EQ(uri->tls, row.tls) << row.text;
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
