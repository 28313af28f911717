#include "ctl/metrics.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace nbdinetd::ctl {
namespace {

TEST(Metrics, ALabelIsEscaped) {
  EXPECT_EQ(LabelValue("a\"b\\c\nd\u00fc\xff"), "a\\\"b\\\\c\\nd\u00fc\ufffd");
}

TEST(Metrics, AnExportAndItsConnectionHaveTheirSamples) {
  ManagedExport target;
  target.name = "golden";
  target.state = "listening";
  target.per_connection = true;
  target.served.file = "/srv/golden.img";
  target.accepted = 5;
  target.refused = 1;
  LiveConnection connection;
  connection.export_name = "golden";
  connection.unit = "nbdinetd-golden@1.service";
  connection.peer = "192.0.2.7:1";
  connection.counters = Counters{3, 4096, 512, 1};
  const std::string text = MetricsText({target}, {connection}, false);
  for (const char* line :
       {"\nnbdinetd_export_up{export=\"golden\"} 1\n",
        "\nnbdinetd_export_connections{export=\"golden\"} 1\n",
        "\nnbdinetd_export_accepted_total{export=\"golden\"} 5\n",
        "\nnbdinetd_export_refused_total{export=\"golden\"} 1\n",
        "\nnbdinetd_connection_read_bytes_total{export=\"golden\","
        "identity=\"\",unit=\"nbdinetd-golden@1.service\"} 4096\n"}) {
    EXPECT_TRUE(absl::StrContains(text, line)) << line << text;
  }
  target.state = "failed";
  EXPECT_TRUE(absl::StrContains(MetricsText({target}, {}, false),
                                "\nnbdinetd_export_up{export=\"golden\"} 0\n"));
}

TEST(Metrics, NoSampleOccursTwice) {
  ManagedExport first, second;
  first.name = second.name = "golden";
  first.state = second.state = "listening";
  first.socket = "golden.socket";
  second.socket = "nbdinetd-golden.socket";
  const std::string text = MetricsText({first, second}, {}, false);
  std::set<std::string> samples;
  for (const absl::string_view line :
       absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    EXPECT_TRUE(samples.emplace(line).second) << line;
  }
}

TEST(Metrics, UnitsThatNobodyHasConfiguredHaveNone) {
  ManagedExport target;
  target.name = "nbdinetd-listen";
  target.state = "stopped";
  EXPECT_FALSE(absl::StrContains(MetricsText({target}, {}, false), "{export="));
}

TEST(Metrics, OnlyAWholeGetOrHeadIsAnHttpRequest) {
  EXPECT_EQ(MethodOf("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
            HttpMethod::kGet);
  EXPECT_EQ(MethodOf("GET / HTTP/1.0\n\n"), HttpMethod::kGet);
  EXPECT_EQ(MethodOf("HEAD / HTTP/1.1\r\n\r\n"), HttpMethod::kHead);
  for (const char* text :
       {"", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n\r\n", "GET /\r\n\r\n",
        "GET  HTTP/1.1\r\n\r\n", "\r\n\r\n", "get / HTTP/1.1\r\n\r\n",
        "GET / HTTP/2\r\n\r\n", "NBDMAGIC\n\n"}) {
    EXPECT_EQ(MethodOf(text), HttpMethod::kNone) << text;
  }
}

}  // namespace
}  // namespace nbdinetd::ctl
