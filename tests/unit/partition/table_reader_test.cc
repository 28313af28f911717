// The process that reads tables, with a file as small as one can be. What is in
// tables, and the process's sandbox, are in partitions_test.py.
#include "partition/table_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "base/limits.h"
#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

// A file of 64 KiB with an MBR that has one partition, of 2 sectors from 8 on.
UniqueFd Image() {
  UniqueFd fd(memfd_create("image", MFD_CLOEXEC));
  std::string sector(512, '\0');
  sector[446 + 4] = '\x83';
  sector[446 + 8] = 8;
  sector[446 + 12] = 2;
  sector[510] = '\x55';
  sector[511] = '\xaa';
  EXPECT_EQ(ftruncate(fd.get(), 64 << 10), 0);
  EXPECT_EQ(pwrite(fd.get(), sector.data(), sector.size(), 0), 512);
  return fd;
}

TEST(TableReaderTest, OneProcessReadsManyTablesAndEndsWithTheReader) {
  auto reader = TableReader::Start(SandboxMode::kOff);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const UniqueFd fd = Image();
  for (int i = 0; i < 100; ++i) {
    const auto table = (*reader)->Read(fd.get(), "image");
    if (absl::IsFailedPrecondition(table.status()))
      GTEST_SKIP() << table.status();
    ASSERT_TRUE(table.ok()) << table.status();
    ASSERT_EQ(table->partitions.size(), 1u);
    EXPECT_EQ(table->partitions[0].start_bytes, 4096u);
    EXPECT_EQ(table->partitions[0].size_bytes, 1024u);
  }
  reader->reset();
  int status = 0;
  ASSERT_GT(wait(&status), 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(TableReaderTest, WhatCannotBeReadIsAnError) {
  auto reader = TableReader::Start(SandboxMode::kOff);
  ASSERT_TRUE(reader.ok());
  const UniqueFd fd(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto table = (*reader)->Read(fd.get(), "/");
  EXPECT_TRUE(absl::IsNotFound(table.status()) ||
              absl::IsFailedPrecondition(table.status()))
      << table.status();
  // It goes on afterwards.
  const UniqueFd image = Image();
  EXPECT_FALSE(absl::IsInternal((*reader)->Read(image.get(), "x").status()));
  reader->reset();
  wait(nullptr);
}

}  // namespace
}  // namespace nbdinetd
