#include "ctl/metrics.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
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

// -- Histograms

// A sample: its name with all labels but `le`, that label, and the value.
struct Sample {
  std::string series, le, value;
};

// The samples of the text, which must have the form that Prometheus documents
// ("Text format details"): each metric's lines are together, behind its TYPE.
std::vector<Sample> SamplesIn(const std::string& text) {
  std::vector<Sample> samples;
  std::set<std::string> metrics;
  std::string metric;
  EXPECT_TRUE(text.empty() || text.back() == '\n');
  for (const absl::string_view view :
       absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::string line(view);
    std::smatch match;
    if (std::regex_match(line, match,
                         std::regex("# TYPE (\\w+) (counter|"
                                    "gauge|histogram)"))) {
      metric = match[1];
      EXPECT_TRUE(metrics.insert(metric).second) << line;
      continue;
    }
    if (line[0] == '#') {
      EXPECT_TRUE(std::regex_match(line, std::regex("# HELP \\w+ .+")));
      continue;
    }
    static const std::regex kSample(
        "(\\w+?)(_bucket|_sum|_count)?\\{((?:\\w+=\"(?:[^\"\\\\]|\\\\.)*\",?)"
        "*)\\} (\\d+(?:\\.\\d+)?)");
    EXPECT_TRUE(std::regex_match(line, match, kSample)) << line;
    EXPECT_TRUE(match[1] == metric || match[1].str() + match[2].str() == metric)
        << line;
    static const std::regex kLe(",le=\"([^\"]*)\"");
    const std::string labels = match[3];
    std::smatch le;
    std::regex_search(labels, le, kLe);
    samples.push_back({absl::StrCat(match[1].str(), match[2].str(), "{",
                                    std::regex_replace(labels, kLe, ""), "}"),
                       le.empty() ? "" : le[1].str(), match[4]});
  }
  return samples;
}

LiveConnection WithStatistics() {
  LiveConnection connection;
  connection.export_name = "golden";
  connection.unit = "nbdinetd-golden@1.service";
  connection.per_connection = true;
  connection.statistics.emplace();
  return connection;
}

const std::string kRead =
    "{export=\"golden\",identity=\"\",unit=\"nbdinetd-golden@1.service\","
    "command=\"read\"}";

TEST(MetricsHistograms, AreCumulativeAndHaveAllBounds) {
  LiveConnection connection = WithStatistics();
  CommandStatistics& read = connection.statistics->of(Command::kRead);
  read.latency.Add(0, 2, 1500);
  read.latency.Add(4, 3, 40000);
  read.latency.Add(LatencyHistogram::kBuckets - 1, 1, 70'000'000'000);
  read.size.Add(3, 5, 20480);
  std::vector<std::string> bounds, counts, size_bounds;
  std::string sum, count, size_sum;
  for (const Sample& sample : SamplesIn(MetricsText({}, {connection}, true))) {
    if (sample.series == "nbdinetd_request_duration_seconds_bucket" + kRead) {
      bounds.push_back(sample.le);
      counts.push_back(sample.value);
    } else if (sample.series == "nbdinetd_request_size_bytes_bucket" + kRead) {
      size_bounds.push_back(sample.le);
    } else if (sample.series ==
               "nbdinetd_request_duration_seconds_sum" + kRead) {
      sum = sample.value;
    } else if (sample.series ==
               "nbdinetd_request_duration_seconds_count" + kRead) {
      count = sample.value;
    } else if (sample.series == "nbdinetd_request_size_bytes_sum" + kRead) {
      size_sum = sample.value;
    } else {
      EXPECT_EQ(sample.series, "nbdinetd_request_size_bytes_count" + kRead);
    }
  }
  ASSERT_EQ(bounds.size(), LatencyHistogram::kBuckets);
  EXPECT_EQ(bounds[0], "0.000001");
  EXPECT_EQ(bounds[4], "0.000016");
  EXPECT_EQ(bounds[26], "67.108864");
  EXPECT_EQ(bounds[27], "+Inf");
  EXPECT_EQ(counts[0], "2");
  EXPECT_EQ(counts[3], "2");
  EXPECT_EQ(counts[4], "5");
  EXPECT_EQ(counts[26], "5");
  EXPECT_EQ(counts[27], "6");
  EXPECT_EQ(sum, "70.0000415");
  EXPECT_EQ(count, "6");
  ASSERT_EQ(size_bounds.size(), SizeHistogram::kBuckets);
  EXPECT_EQ(size_bounds[0], "512");
  EXPECT_EQ(size_bounds[23], "4294967296");
  EXPECT_EQ(size_bounds[24], "+Inf");
  EXPECT_EQ(size_sum, "20480");
}

TEST(MetricsHistograms, GrowFromBoundToBoundWhateverTheNumbersAre) {
  LiveConnection connection = WithStatistics();
  CommandStatistics& read = connection.statistics->of(Command::kRead);
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
    read.latency.Add(i, UINT64_MAX / 3, UINT64_MAX / 3);
  }
  uint64_t last = 0;
  for (const Sample& sample : SamplesIn(MetricsText({}, {connection}, true))) {
    if (sample.le.empty()) continue;
    uint64_t value = 0;
    ASSERT_TRUE(absl::SimpleAtoi(sample.value, &value));
    EXPECT_GE(value, last) << sample.le;
    last = value;
  }
  EXPECT_EQ(last, UINT64_MAX);
}

TEST(MetricsHistograms, AreThereOnlyForCommandsAndConnectionsThatHaveThem) {
  LiveConnection flushed = WithStatistics(), none = WithStatistics();
  flushed.statistics->of(Command::kFlush).latency.Add(3, 1, 8000);
  none.unit = "nbdinetd-golden@2.service";
  none.statistics.reset();
  std::set<std::string> series;
  for (const Sample& sample :
       SamplesIn(MetricsText({}, {flushed, none}, true))) {
    series.insert(sample.series.substr(0, sample.series.find('{')));
    EXPECT_TRUE(absl::StrContains(sample.series, "command=\"flush\""));
  }
  EXPECT_EQ(series,
            (std::set<std::string>{"nbdinetd_request_duration_seconds_bucket",
                                   "nbdinetd_request_duration_seconds_sum",
                                   "nbdinetd_request_duration_seconds_count"}));
  // Two connections of a listening service would have the same labels.
  flushed.per_connection = false;
  EXPECT_TRUE(SamplesIn(MetricsText({}, {flushed}, true)).empty());
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
