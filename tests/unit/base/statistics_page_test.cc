#include "base/statistics_page.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <vector>

namespace nbdinetd {
namespace {

// The descriptors of this process that are pages.
std::vector<int> Pages() {
  std::vector<int> pages;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string link =
        std::filesystem::read_symlink(entry.path(), error).string();
    if (link == "/memfd:nbdinetd-statistics (deleted)") {
      pages.push_back(std::stoi(entry.path().filename()));
    }
  }
  return pages;
}

std::string Content(int fd) {
  std::string bytes(2 * sizeof(StatisticsLayout), '#');
  const ssize_t n = pread(fd, bytes.data(), bytes.size(), 0);
  bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return bytes;
}

TEST(StatisticsPage, IsReadWhileItIsWritten) {
  StatisticsPage page(/*shared=*/true);
  ASSERT_TRUE(page.shared());
  const std::vector<int> pages = Pages();
  ASSERT_EQ(pages.size(), 1u);
  std::optional<Statistics> read = ParseStatisticsPage(Content(pages[0]));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->requests, 0u);
  ++page.statistics().requests;
  page.statistics().of(Command::kTrim).size.Add(2, 5, 7);
  read = ParseStatisticsPage(Content(pages[0]));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->requests, 1u);
  EXPECT_EQ(read->of(Command::kTrim).size.count(2), 5u);
  EXPECT_EQ(read->of(Command::kTrim).size.sum(), 7u);
  EXPECT_EQ(read->of(Command::kRead).size.count(), 0u);
}

TEST(StatisticsPage, CannotBeMadeShorterOrLongerOrBeInherited) {
  StatisticsPage page(/*shared=*/true);
  const std::vector<int> pages = Pages();
  ASSERT_EQ(pages.size(), 1u);
  EXPECT_EQ(ftruncate(pages[0], 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(pages[0], 1 << 20), -1);
  EXPECT_EQ(fcntl(pages[0], F_ADD_SEALS, F_SEAL_WRITE), -1);
  EXPECT_EQ(fcntl(pages[0], F_GETFD), FD_CLOEXEC);
}

TEST(StatisticsPage, IsOrdinaryMemoryWithoutReaders) {
  StatisticsPage page(/*shared=*/false);
  EXPECT_FALSE(page.shared());
  EXPECT_TRUE(Pages().empty());
  ++page.statistics().requests;
  EXPECT_EQ(page.statistics().requests, 1u);
}

TEST(StatisticsPage, LeavesNothingBehind) {
  for (const bool shared : {true, false}) StatisticsPage page(shared);
  EXPECT_TRUE(Pages().empty());
}

// -- Pages of others

std::string ValidPage() {
  StatisticsPage page(/*shared=*/true);
  return Content(Pages().at(0));
}

TEST(ParseStatisticsPage, RefusesWhatAnotherVersionHasWritten) {
  const std::string valid = ValidPage();
  ASSERT_EQ(valid.size(), sizeof(StatisticsLayout));
  EXPECT_TRUE(ParseStatisticsPage(valid).has_value());
  EXPECT_TRUE(ParseStatisticsPage(valid + "more").has_value());
  for (size_t size = 0; size < valid.size(); ++size) {
    EXPECT_FALSE(ParseStatisticsPage(valid.substr(0, size)).has_value());
  }
  // Magic, version and length.
  for (size_t at = 0; at < offsetof(StatisticsLayout, statistics); ++at) {
    std::string other = valid;
    other[at] = static_cast<char>(other[at] ^ 1);
    EXPECT_FALSE(ParseStatisticsPage(other).has_value()) << at;
  }
}

TEST(ParseStatisticsPage, TakesAnyNumbers) {
  std::mt19937 random(7);
  const std::string valid = ValidPage();
  for (int round = 0; round < 1000; ++round) {
    std::string page = valid;
    for (size_t at = offsetof(StatisticsLayout, statistics); at < page.size();
         ++at) {
      page[at] = static_cast<char>(random());
    }
    const std::optional<Statistics> read = ParseStatisticsPage(page);
    ASSERT_TRUE(read.has_value());
    uint64_t first;
    std::memcpy(&first, page.data() + offsetof(StatisticsLayout, statistics),
                sizeof(first));
    EXPECT_EQ(read->requests, first);
  }
}

}  // namespace
}  // namespace nbdinetd
