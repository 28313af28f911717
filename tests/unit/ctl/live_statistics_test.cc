#include "ctl/live_statistics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <optional>
#include <random>
#include <string>

#include "base/statistics_page.h"
#include "base/unique_fd.h"
#include "ctl/json_reader.h"

namespace nbdinetd::ctl {
namespace {

std::optional<Statistics> ReadOwn() {
  const UniqueFd directory(open("/proc/self/fd", O_RDONLY | O_DIRECTORY));
  return ReadStatisticsAmong(directory.get());
}

TEST(LiveStatistics, AreReadFromThePageOfAProcess) {
  EXPECT_FALSE(ReadOwn().has_value());
  StatisticsPage page(/*shared=*/true);
  page.statistics().requests += 3;
  const std::optional<Statistics> read = ReadOwn();
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->requests, 3u);
}

TEST(LiveStatistics, OfAnotherContentAreNone) {
  const UniqueFd page(memfd_create(kStatisticsPageName, MFD_CLOEXEC));
  EXPECT_FALSE(ReadOwn().has_value());
  const std::string text(sizeof(StatisticsLayout), '#');
  ASSERT_EQ(write(page.get(), text.data(), text.size()),
            static_cast<ssize_t>(text.size()));
  EXPECT_FALSE(ReadOwn().has_value());
}

TEST(LiveStatistics, OfAnotherNameAreNone) {
  StatisticsLayout layout;
  layout.length_bytes = sizeof(layout);
  for (const std::string name :
       {"nbdinetd-statistics ", "nbdinetd-statistics2", "x"}) {
    const UniqueFd page(memfd_create(name.c_str(), MFD_CLOEXEC));
    ASSERT_EQ(write(page.get(), &layout, sizeof(layout)),
              ssize_t{sizeof(layout)});
    EXPECT_FALSE(ReadOwn().has_value()) << name;
  }
}

// -- JSON

TEST(HistogramsJson, HasTheCommandsOfWhichThereWereRequests) {
  Statistics statistics;
  EXPECT_EQ(HistogramsJson(statistics), "");
  CommandStatistics& read = statistics.of(Command::kRead);
  read.latency.Add(4, 120, 1234567);
  read.latency.Add(LatencyHistogram::kBuckets - 1, 1, 70'000'000'000);
  read.size.Add(3, 120, 491520);
  statistics.of(Command::kFlush).latency.Add(0, 1, 999);
  EXPECT_EQ(HistogramsJson(statistics),
            "{\"read\":{\"count\":121,"
            "\"latency_usec\":[{\"le\":16,\"count\":120},{\"count\":1}],"
            "\"latency_usec_sum\":70001234,"
            "\"size_bytes\":[{\"le\":4096,\"count\":120}],"
            "\"size_bytes_sum\":491520},"
            "\"flush\":{\"count\":1,"
            "\"latency_usec\":[{\"le\":1,\"count\":1}],"
            "\"latency_usec_sum\":0}}");
}

TEST(HistogramsJson, IsJsonWhateverTheNumbersAre) {
  std::mt19937 random(7);
  StatisticsLayout layout;
  for (int round = 0; round < 100; ++round) {
    std::string page(sizeof(layout), '\0');
    for (char& byte : page) byte = static_cast<char>(random());
    layout.length_bytes = sizeof(layout);
    page.replace(0, offsetof(StatisticsLayout, statistics),
                 reinterpret_cast<const char*>(&layout),
                 offsetof(StatisticsLayout, statistics));
    const std::optional<Statistics> statistics = ParseStatisticsPage(page);
    ASSERT_TRUE(statistics.has_value());
    const auto members = JsonMembers(HistogramsJson(*statistics));
    ASSERT_TRUE(members.has_value());
    ASSERT_EQ(members->size(), kCommands);
    for (const auto& [name, value] : *members) {
      const auto of_command = JsonMembers(value);
      ASSERT_TRUE(of_command.has_value()) << name;
      const auto buckets = JsonElements(of_command->at("latency_usec"));
      ASSERT_TRUE(buckets.has_value());
      EXPECT_EQ(buckets->size(), LatencyHistogram::kBuckets);
    }
  }
}

}  // namespace
}  // namespace nbdinetd::ctl
