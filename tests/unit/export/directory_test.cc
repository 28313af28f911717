#include "export/directory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

using List = std::vector<std::pair<std::string, std::string>>;

// A directory of exports, beside which there is a file that is none of them.
class Directory : public testing::Test {
 protected:
  Directory() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "nbdinetd-XXXXXX").string();
    top_ = mkdtemp(pattern.data());
    std::filesystem::create_directory(path());
    std::ofstream(top_ + "/outside") << "a secret of 27 bytes, hidden";
  }
  ~Directory() override { std::filesystem::remove_all(top_); }

  std::string path() const { return top_ + "/exports"; }
  std::string PathOf(const std::string& name) const {
    return path() + "/" + name;
  }
  void Make(const std::string& name, const std::string& content) const {
    std::ofstream(PathOf(name)) << content;
  }
  void MakeFifo(const std::string& name) const {
    ASSERT_EQ(mkfifo(PathOf(name).c_str(), 0666), 0);
  }
  void MakeLink(const std::string& target, const std::string& name) const {
    ASSERT_EQ(symlink(target.c_str(), PathOf(name).c_str()), 0);
  }
  void MakeSocket(const std::string& name) const {
    const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    PathOf(name).copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(
        bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
        0);
  }

  std::unique_ptr<Catalog> Open(bool read_only = false,
                                const std::string& default_name = "") const {
    absl::StatusOr<std::unique_ptr<Catalog>> opened =
        OpenDirectory(path(), {.read_only = read_only}, default_name);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }

 private:
  std::string top_;
};

List ListOf(Catalog& catalog) {
  List list;
  const absl::Status status =
      catalog.List([&](absl::string_view name, absl::string_view text) {
        list.emplace_back(name, text);
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  return list;
}

std::vector<std::string> NamesOf(Catalog& catalog) {
  std::vector<std::string> names;
  for (auto& [name, description] : ListOf(catalog)) names.push_back(name);
  return names;
}

std::string ContentOf(const Catalog::Opened& opened) {
  std::string content(opened.target->facts().size_bytes, '\0');
  size_t done = 0;
  EXPECT_EQ(opened.target->Read(0, absl::MakeSpan(content), &done), 0);
  return content;
}

// What our process has open.
size_t OpenDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

TEST(ExportFileName, IsOneComponentAndAString) {
  struct Row {
    std::string name;
    bool valid;
  };
  const Row rows[] = {
      {"a", true},
      {"disk.img", true},
      {".hidden", true},
      {"..a", true},
      {"...", true},
      {" ", true},
      {"a\nb", true},
      {"\\", true},
      {"\xc3\xa4", true},
      {std::string(255, 'n'), true},
      {"", false},
      {".", false},
      {"..", false},
      {"/", false},
      {"/a", false},
      {"a/", false},
      {"../a", false},
      {"./a", false},
      {"a/../b", false},
      {std::string("a\0b", 3), false},
      {std::string("\0", 1), false},
      {std::string(256, 'n'), false},
      {std::string(4096, 'n'), false},
      {"\xff", false},
      {"a\xc0\xaf", false},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(IsExportFileName(row.name), row.valid) << row.name;
  }
}

TEST(SizeInWords, IsShortAndExact) {
  const std::pair<uint64_t, std::string> rows[] = {
      {0, "0 bytes"},
      {1, "1 byte"},
      {1023, "1023 bytes"},
      {1024, "1.0 KiB (1024 bytes)"},
      {1536, "1.5 KiB (1536 bytes)"},
      {1048575, "1023.9 KiB (1048575 bytes)"},
      {1048576, "1.0 MiB (1048576 bytes)"},
      {uint64_t{3} << 30, "3.0 GiB (3221225472 bytes)"},
      {uint64_t{1} << 40, "1.0 TiB (1099511627776 bytes)"},
      {uint64_t{1} << 50, "1.0 PiB (1125899906842624 bytes)"},
      {UINT64_MAX, "15.9 EiB (18446744073709551615 bytes)"},
  };
  for (const auto& [size, words] : rows) EXPECT_EQ(SizeInWords(size), words);
}

TEST_F(Directory, IsListedInTheOrderOfBytesWithSizes) {
  Make("b", "12345");
  Make("a", "");
  Make("B", std::string(2048, 'x'));
  Make("\xc3\xa4", "1");
  Make(".hidden", "12");
  Make("a b\n", "123");
  const auto catalog = Open();
  EXPECT_EQ(ListOf(*catalog), (List{{".hidden", "2 bytes"},
                                    {"B", "2.0 KiB (2048 bytes)"},
                                    {"a", "0 bytes"},
                                    {"a b\n", "3 bytes"},
                                    {"b", "5 bytes"},
                                    {"\xc3\xa4", "1 byte"}}));
}

TEST_F(Directory, IsListedUntilNobodyListens) {
  for (const char* name : {"a", "b", "c"}) Make(name, "x");
  size_t heard = 0;
  EXPECT_TRUE(Open()
                  ->List([&](absl::string_view, absl::string_view) {
                    return ++heard < 2;
                  })
                  .ok());
  EXPECT_EQ(heard, 2u);
}

TEST_F(Directory, OpensAFileUnderItsName) {
  Make("disk", "the disk's bytes");
  Make("other", "others");
  const auto catalog = Open();
  EXPECT_TRUE(catalog->Find("disk").ok());
  const absl::StatusOr<Catalog::Opened> opened = catalog->Open("disk");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->name, "disk");
  EXPECT_EQ(opened->description, "16 bytes");
  EXPECT_EQ(opened->read_only_reason, "");
  EXPECT_FALSE(opened->target->facts().read_only);
  EXPECT_EQ(opened->target->path(), PathOf("disk"));
  EXPECT_EQ(ContentOf(*opened), "the disk's bytes");
  EXPECT_EQ(opened->target->Write(4, absl::MakeConstSpan("DISK", 4), false), 0);
  EXPECT_EQ(ContentOf(*catalog->Open("disk")), "the DISK's bytes");
  EXPECT_EQ(ContentOf(*catalog->Open("other")), "others");
}

TEST_F(Directory, IsReadOnlyWhenAskedTo) {
  Make("disk", "x");
  const auto catalog = Open(/*read_only=*/true);
  const absl::StatusOr<Catalog::Opened> opened = catalog->Open("disk");
  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE(opened->target->facts().read_only);
  EXPECT_EQ(opened->read_only_reason, "");
}

TEST_F(Directory, HasNoOtherExports) {
  Make("disk", "x");
  std::filesystem::create_directory(PathOf("sub"));
  Make("sub/below", "x");
  MakeFifo("fifo");
  MakeSocket("socket");
  MakeLink("../exports/disk", "link out and in");
  MakeLink("../outside", "link outside");
  MakeLink(PathOf("../outside"), "absolute link");
  MakeLink("nothing", "dangling link");
  MakeLink("/proc/self/fd/0", "magic link");
  Make("no \xff string", "x");
  const auto catalog = Open();
  EXPECT_EQ(NamesOf(*catalog), std::vector<std::string>{"disk"});
  for (const std::string& name : {std::string(),
                                  std::string("sub"),
                                  std::string("sub/below"),
                                  std::string("fifo"),
                                  std::string("socket"),
                                  std::string("link out and in"),
                                  std::string("link outside"),
                                  std::string("absolute link"),
                                  std::string("dangling link"),
                                  std::string("magic link"),
                                  std::string("."),
                                  std::string(".."),
                                  std::string("./disk"),
                                  std::string("../outside"),
                                  std::string("../exports/disk"),
                                  PathOf("disk"),
                                  std::string("/etc/passwd"),
                                  std::string("/"),
                                  std::string("disk/"),
                                  std::string("disk\0", 5),
                                  std::string("disk\0x", 6),
                                  std::string("no \xff string"),
                                  std::string(255, 'n'),
                                  std::string(256, 'n'),
                                  std::string(4096, 'n'),
                                  std::string(65000, 'n'),
                                  std::string("Disk"),
                                  std::string("nothing")}) {
    EXPECT_TRUE(absl::IsNotFound(catalog->Find(name))) << name;
    EXPECT_TRUE(absl::IsNotFound(catalog->Open(name).status())) << name;
  }
}

TEST_F(Directory, OpensNoCharacterDevice) {
  if (mknod(PathOf("null").c_str(), S_IFCHR | 0666, makedev(1, 3)) != 0) {
    GTEST_SKIP() << "no right to make a device";
  }
  const auto catalog = Open();
  EXPECT_EQ(ListOf(*catalog), List{});
  EXPECT_TRUE(absl::IsNotFound(catalog->Open("null").status()));
}

TEST_F(Directory, FindsADefaultExportWhereItIsGivenOne) {
  Make("disk", "the disk");
  Make("other", "x");
  const auto catalog = Open(false, "disk");
  EXPECT_TRUE(catalog->Find("").ok());
  const absl::StatusOr<Catalog::Opened> opened = catalog->Open("");
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->name, "disk");
  EXPECT_EQ(ContentOf(*opened), "the disk");
  EXPECT_TRUE(catalog->Open("other").ok());
  EXPECT_EQ(NamesOf(*catalog), (std::vector<std::string>{"disk", "other"}));
  std::filesystem::remove(PathOf("disk"));
  EXPECT_TRUE(absl::IsNotFound(catalog->Open("").status()));
}

TEST_F(Directory, IsNotOpenedWithADefaultExportThatCannotBe) {
  for (const std::string& name :
       {std::string("a/b"), std::string(".."), std::string(256, 'n')}) {
    EXPECT_TRUE(
        absl::IsInvalidArgument(OpenDirectory(path(), {}, name).status()))
        << name;
  }
}

TEST_F(Directory, HasToBeADirectory) {
  Make("file", "x");
  for (const std::string& name :
       {std::string("nothing"), std::string("file")}) {
    const absl::Status status = OpenDirectory(PathOf(name), {}, "").status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_NE(status.message().find(PathOf(name)), absl::string_view::npos);
  }
}

TEST_F(Directory, MayBeReachedByALink) {
  Make("disk", "x");
  const std::string link = path() + "-link";
  ASSERT_EQ(symlink(path().c_str(), link.c_str()), 0);
  const auto catalog = OpenDirectory(link, {}, "");
  ASSERT_TRUE(catalog.ok());
  EXPECT_TRUE((*catalog)->Open("disk").ok());
}

TEST_F(Directory, IsSeenAsItIsNow) {
  const auto catalog = Open();
  EXPECT_EQ(ListOf(*catalog), List{});
  EXPECT_TRUE(absl::IsNotFound(catalog->Find("disk")));
  Make("disk", "first");
  EXPECT_EQ(ListOf(*catalog), (List{{"disk", "5 bytes"}}));
  const absl::StatusOr<Catalog::Opened> opened = catalog->Open("disk");
  ASSERT_TRUE(opened.ok());
  // What is open stays what it was.
  std::filesystem::remove(PathOf("disk"));
  EXPECT_EQ(ListOf(*catalog), List{});
  EXPECT_TRUE(absl::IsNotFound(catalog->Find("disk")));
  EXPECT_EQ(ContentOf(*opened), "first");
  Make("disk", "the second");
  EXPECT_EQ(ContentOf(*opened), "first");
  EXPECT_EQ(ContentOf(*catalog->Open("disk")), "the second");
  // The directory itself may go, too.
  std::filesystem::remove_all(path());
  EXPECT_TRUE(absl::IsNotFound(catalog->Open("disk").status()));
  EXPECT_EQ(ListOf(*catalog), List{});
}

TEST_F(Directory, IsTheOneThatWasOpenedWhateverItsNameStandsForLater) {
  Make("disk", "the right one");
  const auto catalog = Open();
  std::filesystem::rename(path(), path() + "-moved");
  std::filesystem::create_directory(path());
  Make("disk", "the wrong one");
  EXPECT_EQ(ContentOf(*catalog->Open("disk")), "the right one");
  EXPECT_EQ(NamesOf(*catalog), std::vector<std::string>{"disk"});
}

TEST_F(Directory, HoldsNoExportOpenThatItsCallerHasDropped) {
  constexpr int kFiles = 1000;
  for (int i = 0; i < kFiles; ++i) Make(std::to_string(i), "x");
  const auto catalog = Open();
  const size_t before = OpenDescriptors();
  EXPECT_EQ(ListOf(*catalog).size(), size_t{kFiles});
  for (int i = 0; i < kFiles; ++i) {
    ASSERT_TRUE(catalog->Find(std::to_string(i)).ok());
  }
  EXPECT_EQ(OpenDescriptors(), before);
  absl::StatusOr<Catalog::Opened> opened;
  for (int i = 0; i < kFiles; ++i) {
    opened = catalog->Open(std::to_string(i));
    ASSERT_TRUE(opened.ok());
  }
  EXPECT_EQ(OpenDescriptors(), before + 1);
  opened = absl::UnknownError("dropped");
  EXPECT_EQ(OpenDescriptors(), before);
  EXPECT_FALSE(catalog->Open("nothing").ok());
  EXPECT_EQ(OpenDescriptors(), before);
}

// A program that runs can't be opened for writing, by nobody.
class Running {
 public:
  explicit Running(const std::string& path) {
    char seconds[] = "1000";
    char* const arguments[] = {const_cast<char*>(path.c_str()), seconds,
                               nullptr};
    char* const environment[] = {nullptr};
    EXPECT_EQ(posix_spawn(&pid_, path.c_str(), nullptr, nullptr, arguments,
                          environment),
              0);
  }
  ~Running() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

TEST_F(Directory, SaysOfEachFileByItselfWhyItIsReadOnly) {
  std::filesystem::copy_file("/bin/sleep", PathOf("busy"));
  Make("disk", "content");
  const std::unique_ptr<Catalog> catalog = Open();
  {
    const Running running(PathOf("busy"));
    const absl::StatusOr<Catalog::Opened> busy = catalog->Open("busy");
    ASSERT_TRUE(busy.ok()) << busy.status();
    EXPECT_TRUE(busy->target->facts().read_only);
    EXPECT_EQ(busy->read_only_reason, "Text file busy");
    const absl::StatusOr<Catalog::Opened> disk = catalog->Open("disk");
    ASSERT_TRUE(disk.ok()) << disk.status();
    EXPECT_FALSE(disk->target->facts().read_only);
    EXPECT_EQ(disk->read_only_reason, "");
    // Nor does it stay with a file that can't be opened at all.
    EXPECT_TRUE(catalog->Open("busy").ok());
    EXPECT_FALSE(catalog->Open("missing").ok());
    EXPECT_EQ(catalog->Open("disk")->read_only_reason, "");
    // In words each has its own, too.
    const std::string words = catalog->InWords();
    EXPECT_NE(words.find("busy\" is served read-only"), std::string::npos)
        << words;
    EXPECT_EQ(words.find("disk\" is served read-only"), std::string::npos)
        << words;
  }
  const absl::StatusOr<Catalog::Opened> idle = catalog->Open("busy");
  ASSERT_TRUE(idle.ok()) << idle.status();
  EXPECT_FALSE(idle->target->facts().read_only);
  EXPECT_EQ(idle->read_only_reason, "");
}

TEST_F(Directory, WithTooManyFilesIsServedButNotListed) {
  const UniqueFd fd(open(path().c_str(), O_DIRECTORY | O_RDONLY));
  for (size_t i = 0; i < kMaxListedExports; ++i) {
    ASSERT_EQ(mknodat(fd.get(), std::to_string(i).c_str(), S_IFREG | 0600, 0),
              0);
  }
  const auto catalog = Open();
  // What is no export doesn't count.
  std::filesystem::create_directory(PathOf("sub"));
  EXPECT_EQ(ListOf(*catalog).size(), kMaxListedExports);
  Make("one more", "one more");
  size_t heard = 0;
  EXPECT_TRUE(absl::IsResourceExhausted(
      catalog->List([&](absl::string_view, absl::string_view) {
        ++heard;
        return true;
      })));
  EXPECT_EQ(heard, 0u);
  EXPECT_EQ(ContentOf(*catalog->Open("one more")), "one more");
}

TEST_F(Directory, IsSaidInWords) {
  Make("disk", std::string(1024, 'x'));
  Make("other", std::string(512, 'x'));
  std::filesystem::create_directory(PathOf("sub"));
  MakeFifo("fifo");
  MakeLink("../outside", "link");
  MakeLink("disk", "inside");
  Make("\xff", "x");
  const std::string words = Open(true, "disk")->InWords();
  for (const std::string& part :
       {"would serve 3 files of \"" + path() +
            "\", 2.5 KiB (2560 bytes) in all, read-only, each under its own "
            "name\n",
        std::string("the default export is \"disk\"\n"),
        "left out: failed to open \"" + PathOf("fifo") +
            "\": it is neither a regular file nor a block device\n",
        "left out: failed to open \"" + PathOf("link") +
            "\": it is a symbolic link that leads out of the directory; a "
            "relative one that stays inside is followed\n",
        "left out: failed to open \"" + PathOf("sub") +
            "\": it is a directory\n",
        "left out: failed to open \"" + PathOf("\\377") +
            "\": no file can be served under this name\n"}) {
    EXPECT_NE(words.find(part), std::string::npos) << part << "in\n" << words;
  }
  EXPECT_NE(Open(true, "gone")->InWords().find("\"gone\", which isn't there"),
            std::string::npos);
}

// A thread that turns an entry into one thing after another, each time in one
// step, as whoever can write to the directory may at any moment.
class Turning {
 public:
  explicit Turning(std::vector<std::string> sources, std::string target)
      : thread_(
            [this, sources = std::move(sources), target = std::move(target)] {
              for (size_t i = 0; !stop_.load(); ++i) {
                // Exchanges the two, so that there always is something.
                renameat2(AT_FDCWD, sources[i % sources.size()].c_str(),
                          AT_FDCWD, target.c_str(), RENAME_EXCHANGE);
              }
            }) {}
  ~Turning() {
    stop_.store(true);
    thread_.join();
  }

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

TEST_F(Directory, OpensNothingElseWhileAnEntryIsReplaced) {
  Make("disk", "the disk");
  MakeFifo("fifo");
  MakeSocket("socket");
  MakeLink("../outside", "link");
  std::filesystem::create_directory(PathOf("sub"));
  const auto catalog = Open();
  const Turning turning(
      {PathOf("fifo"), PathOf("link"), PathOf("sub"), PathOf("socket")},
      PathOf("disk"));
  // Goes on until it has often been a file and often not, and takes some
  // chances between the look and the opening on the way.
  size_t opened_count = 0;
  size_t refused_count = 0;
  for (size_t i = 0; i < 20000 || opened_count < 100 || refused_count < 100;
       ++i) {
    const absl::StatusOr<Catalog::Opened> opened = catalog->Open("disk");
    if (!opened.ok()) {
      ++refused_count;
      continue;
    }
    ++opened_count;
    ASSERT_EQ(ContentOf(*opened), "the disk");
  }
}

}  // namespace
}  // namespace nbdinetd
