#include "torture_disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <stdexcept>
#include <utility>

#include "loop_device.h"

namespace nbdtest {

namespace {

[[noreturn]] void Fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

std::string Variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

// All zeroes, and of a file all holes.
uint64_t Empty(const std::string& path, uint64_t file_size) {
  const nbdinetd::UniqueFd fd(
      open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct stat status;
  if (!fd.valid() || fstat(fd.get(), &status) != 0) Fail(path);
  if (!S_ISBLK(status.st_mode)) {
    if (ftruncate(fd.get(), 0) != 0 ||
        ftruncate(fd.get(), static_cast<off_t>(file_size)) != 0) {
      Fail(path);
    }
    return file_size;
  }
  uint64_t size = 0;
  if (ioctl(fd.get(), BLKGETSIZE64, &size) != 0) Fail(path);
  uint64_t range[2] = {0, size};
  if (ioctl(fd.get(), BLKZEROOUT, range) != 0) Fail(path);
  return size;
}

// As far as the file system can: extents that are unwritten look like holes
// where nothing has been written, too.
void Allocate(const std::string& path, uint64_t size) {
  const nbdinetd::UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat status;
  if (!fd.valid() || fstat(fd.get(), &status) != 0) Fail(path);
  if (S_ISREG(status.st_mode)) {
    static_cast<void>(fallocate(fd.get(), 0, 0, static_cast<off_t>(size)));
  }
}

// Where a part begins: on no page, and with data before and behind it that
// nobody may touch.
constexpr uint64_t kPartBegin = 3 * 4096 + 512;
constexpr char kAround = '#';

bool IsOneOf(Storage storage, std::initializer_list<Storage> list) {
  return std::find(list.begin(), list.end(), storage) != list.end();
}

bool IsPart(Storage storage) {
  return IsPartition(storage) ||
         IsOneOf(storage, {Storage::kPart, Storage::kCopiedPart,
                           Storage::kCopiedPartInMemory, Storage::kKeptPart});
}

bool IsKept(Storage storage) {
  return IsOneOf(storage,
                 {Storage::kKept, Storage::kKeptPart, Storage::kKeptPartition});
}

bool IsCopyInMemory(Storage storage) {
  return IsOneOf(storage,
                 {Storage::kCopyInMemory, Storage::kCopiedPartInMemory});
}

bool IsCopied(Storage storage) {
  return IsKept(storage) || IsCopyInMemory(storage) ||
         IsOneOf(storage, {Storage::kCopy, Storage::kCopiedPart,
                           Storage::kCopiedPartition});
}

class OwnDisk : public TortureDisk {
 public:
  OwnDisk(Storage storage, uint64_t size)
      : TortureDisk(IsPart(storage) ? kPartBegin : 0),
        storage_(storage),
        before_(begin(), kAround),
        behind_(begin(), kAround) {
    std::string parent = "/dev/shm";
    if (storage != Storage::kTmpfs) {
      const std::string chosen = Variable("TMPDIR");
      parent = chosen.empty() ? "/tmp" : chosen;
    }
    directory_ = parent + "/nbdinetd-torture-XXXXXX";
    if (mkdtemp(directory_.data()) == nullptr) Fail("mkdtemp");
    file_ = directory_ + "/disk";
    Empty(file_, size + 2 * begin());
    constexpr uint64_t kDataBytes = 192 << 10;
    Fill(file_, size, kDataBytes, 2 * kDataBytes);
    const bool large_sectors = storage == Storage::kLoopDevice4K;
    if (storage == Storage::kLoopDevice || large_sectors) {
      device_.emplace(file_, large_sectors ? 4096 : 512, /*read_only=*/false);
      if (!device_->attached()) throw std::runtime_error(device_->problem());
    }
    Open(device_.has_value() ? device_->path() : file_);
    if (IsPartition(storage)) WriteTable(size);
    for (const auto& [offset, bytes] : Around(size)) {
      if (pwrite(fd(), bytes.data(), bytes.size(),
                 static_cast<off_t>(offset)) !=
          static_cast<ssize_t>(bytes.size())) {
        Fail(file_);
      }
    }
  }
  ~OwnDisk() override { std::filesystem::remove_all(directory_); }

  bool is_copied() const override { return IsCopied(storage_); }
  bool is_kept() const override { return IsKept(storage_); }

  std::vector<std::string> options() const override {
    std::vector<std::string> options =
        IsPartition(storage_) ? std::vector<std::string>{"--partition=2"}
                              : TortureDisk::options();
    if (is_kept()) {
      options.insert(options.end(), {"--cow=keep", "--cow-key=peer-address"});
      if (storage_ == Storage::kKeptPart) options.emplace_back("--cow-size=1G");
    } else if (is_copied()) {
      options.insert(options.end(), {"--cow", "--cow-size=1G",
                                     "--cow-dir=" + (IsCopyInMemory(storage_)
                                                         ? std::string("memory")
                                                         : directory_)});
    }
    return options;
  }

  std::optional<std::string> Check() override {
    std::optional<std::string> wrong = Compare(fd());
    if (!wrong.has_value() && device_.has_value()) {
      if (fsync(fd()) != 0) Fail("fsync");
      const nbdinetd::UniqueFd file(open(file_.c_str(), O_RDONLY | O_CLOEXEC));
      wrong = Compare(file.get());
    }
    return wrong.has_value() ? wrong : CheckAround();
  }

 private:
  std::optional<std::string> CheckAround() {
    for (const auto& [offset, wanted] : Around(model().size())) {
      Bytes bytes(begin(), '\0');
      if (pread(fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) !=
          static_cast<ssize_t>(bytes.size())) {
        Fail("reading what is around the part");
      }
      if (bytes != wanted) {
        return "what is around the part has changed";
      }
    }
    return std::nullopt;
  }

  // What is before a part of `size` bytes, and behind it.
  std::vector<std::pair<uint64_t, Bytes>> Around(uint64_t size) const {
    return {{0, before_}, {begin() + size, behind_}};
  }

  // An MBR whose second partition is the part.
  void WriteTable(uint64_t size) {
    constexpr size_t kTable = 446, kEntry = 16, kMagic = 510;
    std::fill_n(before_.begin() + kTable, 4 * kEntry, '\0');
    char* entry = before_.data() + kTable + kEntry;
    entry[4] = '\x83';
    const uint32_t place[] = {static_cast<uint32_t>(begin() / 512),
                              static_cast<uint32_t>(size / 512)};
    std::memcpy(entry + 8, place, sizeof(place));
    before_[kMagic] = '\x55';
    before_[kMagic + 1] = '\xaa';
  }

  const Storage storage_;
  Bytes before_;
  const Bytes behind_;
  std::string directory_;
  std::string file_;
  std::optional<LoopDevice> device_;
};

class MadeDisk : public TortureDisk {
 public:
  MadeDisk(const GivenDisk& given, std::mt19937_64& random) : given_(given) {
    RunHook("begin");
    const std::string source = given.source.empty() ? given.path : given.source;
    // Much data and little, and nothing but a hole: what a map of holes leaves
    // out is seen best where there are few of them.
    constexpr std::array<std::pair<uint64_t, uint64_t>, 4> kLayouts = {
        {{192 << 10, 384 << 10}, {64 << 10, 3 << 20}, {4000, 1 << 20}, {0, 1}}};
    const auto [data, period] = kLayouts[random() % kLayouts.size()];
    const uint64_t size = Empty(source, given.size);
    if (random() % 4 == 0) Allocate(source, size);
    Fill(source, size, data, period);
    RunHook("ready");
    Open(given.path);
  }

  std::optional<std::string> Check() override {
    if (std::optional<std::string> wrong = Compare(fd())) {
      return "in the page cache: " + *wrong;
    }
    Close();
    RunHook("remount");
    Open(given_.path);
    if (std::optional<std::string> wrong = Compare(fd())) {
      return "where it is stored: " + *wrong;
    }
    return std::nullopt;
  }

 private:
  void RunHook(const std::string& occasion) const {
    if (given_.hook.empty()) return;
    const int status = std::system((given_.hook + " " + occasion).c_str());
    if (status != 0) {
      throw std::runtime_error("'" + given_.hook + " " + occasion +
                               "' failed with wait status " +
                               std::to_string(status));
    }
  }

  const GivenDisk given_;
};

}  // namespace

bool IsPartition(Storage storage) {
  return IsOneOf(storage, {Storage::kPartition, Storage::kCopiedPartition,
                           Storage::kKeptPartition});
}

std::vector<std::string> TortureDisk::options() const {
  if (begin_ == 0) return {};
  return {"--offset=" + std::to_string(begin_),
          "--length=" + std::to_string(model_->size())};
}

void TortureDisk::Fill(const std::string& path, uint64_t size,
                       uint64_t data_bytes, uint64_t period_bytes) {
  model_.emplace(size);
  const nbdinetd::UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) Fail(path);
  for (uint64_t offset = 0; data_bytes > 0 && offset < size;
       offset += period_bytes) {
    const auto change =
        model_->BeginWrite(offset, std::min(data_bytes, size - offset));
    const Bytes bytes = VersionBytes(change.version, offset, change.length);
    if (pwrite(fd.get(), bytes.data(), bytes.size(),
               static_cast<off_t>(begin_ + offset)) !=
        static_cast<ssize_t>(bytes.size())) {
      Fail(path);
    }
    model_->End(change, TortureModel::Outcome::kDone);
  }
}

void TortureDisk::Open(const std::string& path) {
  path_ = path;
  fd_.Reset(open(path_.c_str(), O_RDWR | O_CLOEXEC));
  // What is read-only is looked at all the same.
  if (!fd_.valid()) fd_.Reset(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd_.valid()) Fail(path_);
}

void TortureDisk::Disturb(std::mt19937_64& random) {
  switch (random() % 8) {
    case 0:
      fdatasync(fd_.get());
      break;
    case 1:
      // Begins to write back, so that requests meet pages on their way.
      sync_file_range(fd_.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
      break;
    default:
      break;
  }
  const uint64_t offset = begin_ + random() % model_->size();
  const uint64_t length = random() % 4 == 0 ? 0 : random() % (1 << 20);
  posix_fadvise(fd_.get(), static_cast<off_t>(offset),
                static_cast<off_t>(length), POSIX_FADV_DONTNEED);
}

std::optional<std::string> TortureDisk::Compare(int fd) {
  Bytes bytes(1 << 20, '\0');
  const TortureModel::Time start = model_->BeginReading();
  std::optional<std::string> wrong;
  for (uint64_t offset = 0; offset < model_->size() && !wrong;
       offset += bytes.size()) {
    bytes.resize(std::min<uint64_t>(bytes.size(), model_->size() - offset));
    if (pread(fd, bytes.data(), bytes.size(),
              static_cast<off_t>(begin_ + offset)) !=
        static_cast<ssize_t>(bytes.size())) {
      Fail("reading the export itself");
    }
    wrong = model_->Check(start, offset, bytes);
  }
  model_->EndReading(start);
  return wrong;
}

std::unique_ptr<TortureDisk> MakeOwnDisk(Storage storage, uint64_t size) {
  return std::make_unique<OwnDisk>(storage, size);
}

std::optional<GivenDisk> GivenDisk::FromEnvironment() {
  GivenDisk given;
  given.path = Variable("NBDINETD_TORTURE_EXPORT");
  if (given.path.empty()) return std::nullopt;
  given.source = Variable("NBDINETD_TORTURE_SOURCE");
  given.hook = Variable("NBDINETD_TORTURE_HOOK");
  const std::string size = Variable("NBDINETD_TORTURE_BYTES");
  // A sector more than pages, and some bytes more than sectors.
  given.size = size.empty() ? (16 << 20) + 512 + 101
                            : std::strtoull(size.c_str(), nullptr, 0);
  return given;
}

std::unique_ptr<TortureDisk> MakeGivenDisk(const GivenDisk& given,
                                           std::mt19937_64& random) {
  return std::make_unique<MadeDisk>(given, random);
}

}  // namespace nbdtest
