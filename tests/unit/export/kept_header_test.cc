// The headers and the names of kept copies.

#include "export/kept_header.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "export/checksum.h"
#include "export/kept_name.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

using nbdtest::TempDir;

KeptHeader Header() {
  KeptHeader header;
  header.sequence = 7;
  header.size_bytes = 1000001;
  header.block_bytes = 4096;
  header.base = {1000001, 12, 34, 56, 78};
  header.base_path = "/srv/disk.img";
  header.base_offset = 512;
  header.base_bytes = 1000001;
  header.owner = {"disk", true, ClientKind::kCertificate, "CN=alice"};
  header.created = 1234567;
  header.boot_id = "boot";
  header.merge = KeptHeader::Merge{1048576, 11, 22, 33};
  header.lost_error = EIO;
  return header;
}

void ExpectEqual(const KeptHeader& a, const KeptHeader& b) {
  EXPECT_EQ(*EncodeHeader(a), *EncodeHeader(b));
}

TEST(ChecksumTest, IsCrc64Xz) {
  EXPECT_EQ(Checksum("123456789"), 0x995dc9bbdf1939fau);
  EXPECT_EQ(Checksum(""), 0u);
  EXPECT_EQ(Checksum("6789", Checksum("12345")), 0x995dc9bbdf1939fau);
}

TEST(KeptHeaderTest, ComesBackAsItWas) {
  const absl::StatusOr<std::string> slot = EncodeHeader(Header());
  ASSERT_TRUE(slot.ok());
  EXPECT_EQ(slot->size(), kHeaderSlotBytes);
  const absl::StatusOr<KeptHeader> header = DecodeHeader(*slot);
  ASSERT_TRUE(header.ok()) << header.status();
  ExpectEqual(*header, Header());
  EXPECT_EQ(header->base.size_bytes, 1000001u);
}

// There was nothing behind the texts.
TEST(KeptHeaderTest, ReadsThoseOfEarlierVersions) {
  KeptHeader header = Header();
  header.merge.reset();
  header.lost_error = 0;
  const std::string slot = *EncodeHeader(header);
  const size_t texts_end = slot.rfind("disk") + 4;
  EXPECT_EQ(slot.substr(texts_end, 1000), std::string(1000, '\0'));
  const absl::StatusOr<KeptHeader> read = DecodeHeader(slot);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(read->merge.has_value());
}

TEST(KeptHeaderTest, HasRoomForTheLongestTexts) {
  KeptHeader header = Header();
  const std::string longest(KeptHeader::kMaxText, '\xff');
  header.owner.export_name = header.owner.identity = header.base_path = longest;
  EXPECT_TRUE(EncodeHeader(header).ok());
  header.base_path += 'x';
  EXPECT_FALSE(EncodeHeader(header).ok());
}

TEST(KeptHeaderTest, RefusesEachDamage) {
  const std::string slot = *EncodeHeader(Header());
  for (size_t at = 0; at < 400; ++at) {
    std::string damaged = slot;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    EXPECT_TRUE(absl::IsDataLoss(DecodeHeader(damaged).status())) << at;
  }
  EXPECT_FALSE(DecodeHeader("").ok());
  EXPECT_FALSE(DecodeHeader(slot.substr(1)).ok());
}

// With a checksum that holds: somebody has made it so.
TEST(KeptHeaderTest, RefusesWhatMakesNoSense) {
  std::vector<KeptHeader> headers;
  for (const uint64_t block :
       {uint64_t{1}, uint64_t{4095}, uint64_t{2} << 20}) {
    headers.push_back(Header());
    headers.back().block_bytes = block;
  }
  headers.push_back(Header());
  headers.back().size_bytes = UINT64_MAX - 5;
  headers.push_back(Header());
  headers.back().base_bytes = 1000002;
  for (const uint64_t sequence : {KeptHeader::kMaxSequence + 1, UINT64_MAX}) {
    headers.push_back(Header());
    headers.back().sequence = sequence;
  }
  headers.push_back(Header());
  headers.back().lost_error = 4096;
  headers.push_back(Header());
  headers.back().base_offset = UINT64_MAX;
  headers.push_back(Header());
  headers.back().size_bytes = uint64_t{1} << 48;
  headers.back().base_bytes = 0;
  for (const KeptHeader& header : headers) {
    EXPECT_TRUE(absl::IsDataLoss(DecodeHeader(*EncodeHeader(header)).status()));
  }
}

TEST(KeptHeaderTest, IsReplacedSlotBySlot) {
  const TempDir directory;
  const UniqueFd fd(open((directory.path() + "/copy").c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  FoundHeader found;
  found.header = Header();
  const KeptLayout layout = found.header.layout();
  ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(layout.file_bytes)), 0);
  EXPECT_TRUE(absl::IsDataLoss(ReadHeader(fd.get()).status()));
  for (int i = 0; i < 5; ++i) {
    found.header.created = i;
    ASSERT_EQ(ReplaceHeader(fd.get(), found), 0);
    const absl::StatusOr<FoundHeader> read = ReadHeader(fd.get());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->slot, found.slot);
    EXPECT_EQ(read->header.created, i);
    ExpectEqual(read->header, found.header);
    // A torn write of the next one harms nothing.
    const uint64_t next =
        layout.slots + static_cast<uint64_t>(1 - read->slot) * kHeaderSlotBytes;
    ASSERT_EQ(WriteAll(fd.get(), next, "nbdinetd kept copy 1 torn"), 0);
    EXPECT_EQ(ReadHeader(fd.get())->header.created, i);
  }
  // The size has to be the one that the header says.
  ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(layout.file_bytes + 4096)),
            0);
  EXPECT_FALSE(ReadHeader(fd.get()).ok());
  ASSERT_EQ(ftruncate(fd.get(), 100), 0);
  EXPECT_TRUE(absl::IsDataLoss(ReadHeader(fd.get()).status()));
}

// The next number would be lower.
TEST(KeptHeaderTest, IsNotReplacedAfterTheLastNumber) {
  const TempDir directory;
  const UniqueFd fd(open((directory.path() + "/copy").c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  FoundHeader found;
  found.header = Header();
  ASSERT_EQ(
      ftruncate(fd.get(), static_cast<off_t>(found.header.layout().file_bytes)),
      0);
  found.header.sequence = KeptHeader::kMaxSequence - 1;
  ASSERT_EQ(ReplaceHeader(fd.get(), found), 0);
  EXPECT_EQ(ReplaceHeader(fd.get(), found), EOVERFLOW);
  EXPECT_EQ(ReadHeader(fd.get())->header.sequence, KeptHeader::kMaxSequence);
}

TEST(KeptNameTest, IsAsDocumented) {
  EXPECT_EQ(KeptNameOf({"disk.img", false, ClientKind::kPsk, "alice"}),
            "disk.img@psk+alice.copy");
  EXPECT_EQ(KeptNameOf({"/srv/a", true, ClientKind::kAddress, "::1"}),
            "=%2fsrv%2fa@addr+%3a%3a1.copy");
  EXPECT_EQ(KeptNameOf({".x", false, ClientKind::kCertificate, "CN=a,O=b"}),
            "%2ex@cert+CN%3da%2cO%3db.copy");
}

TEST(KeptNameTest, DiffersForEachOwner) {
  const std::vector<std::string> texts = {"",
                                          ".",
                                          "..",
                                          "/",
                                          "a",
                                          "a/b",
                                          "a@b",
                                          "a%40b",
                                          "@",
                                          "+",
                                          "=",
                                          "=a",
                                          "~",
                                          "%",
                                          "%25",
                                          "%2e",
                                          ".copy",
                                          "a.copy",
                                          "A",
                                          "a\nb",
                                          "a b",
                                          "\xff\xfe",
                                          "psk+a",
                                          "a@psk+a",
                                          "ä",
                                          "a~b",
                                          "-",
                                          "--help",
                                          "../../etc",
                                          std::string(1, '\0'),
                                          std::string(4096, 'x'),
                                          std::string(4095, 'x'),
                                          std::string(110, 'y'),
                                          std::string(111, 'y'),
                                          std::string(4096, '/'),
                                          std::string(4096, 'x') + "/"};
  std::set<std::string> names;
  size_t owners = 0;
  for (const std::string& name : texts) {
    for (const std::string& identity : texts) {
      for (const bool by_path : {false, true}) {
        for (const ClientKind kind :
             {ClientKind::kPsk, ClientKind::kCertificate,
              ClientKind::kAddress}) {
          const std::string file = KeptNameOf({name, by_path, kind, identity});
          EXPECT_LE(file.size(), size_t{NAME_MAX});
          EXPECT_EQ(file.find('/'), std::string::npos);
          EXPECT_NE(file[0], '.');
          EXPECT_TRUE(IsKeptName(file)) << file;
          names.insert(file);
          ++owners;
        }
      }
    }
  }
  EXPECT_EQ(names.size(), owners);
}

TEST(KeptNameTest, DiffersForRandomOwners) {
  std::mt19937 random(1);
  // Few letters, so that many are nearly the same.
  const std::string letters = std::string("a.@+%~=/") + '\0';
  const auto text = [&] {
    std::string result(random() % 5, ' ');
    for (char& c : result) c = letters[random() % letters.size()];
    return result;
  };
  std::set<std::tuple<std::string, bool, std::string>> owners;
  std::set<std::string> names;
  for (int i = 0; i < 20000; ++i) {
    const KeptOwner owner = {text(), random() % 2 == 0, ClientKind::kPsk,
                             text()};
    owners.insert({owner.export_name, owner.by_path, owner.identity});
    names.insert(KeptNameOf(owner));
  }
  EXPECT_EQ(names.size(), owners.size());
}

}  // namespace
}  // namespace nbdinetd
