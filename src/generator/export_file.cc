#include "generator/export_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/unique_fd.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

constexpr absl::string_view kSuffix = ".export";
constexpr absl::string_view kDropInsSuffix = ".export.d";
constexpr absl::string_view kDropInSuffix = ".conf";

// systemd has this limit for a line.
constexpr size_t kMaxFileBytes = 1 << 20;

// Leaves room for the instance of a connection's unit, whose name has both
// addresses, in the 255 bytes of a unit's name.
constexpr size_t kMaxNameBytes = 100;
// The same for the name of the slice, in which a dash becomes "\x2d".
constexpr size_t kMaxNameBytesInSlice = 230;

// Of a line or value in a message, which has room for more.
constexpr size_t kMaxShownBytes = 80;
constexpr size_t kMaxComplaintBytes = 600;

constexpr absl::string_view kBlanks = " \t\r";

std::string PathIn(const std::string& directory, absl::string_view name) {
  return absl::StrCat(directory, "/", name);
}

absl::Status FailedTo(absl::string_view verb, const std::string& path,
                      int error_number) {
  return absl::Status(
      absl::ErrnoToStatusCode(error_number),
      absl::StrCat(path, ": failed to ", verb, ": ", ErrnoText(error_number)));
}

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

absl::Status Elsewhere(const std::string& path) {
  return absl::FailedPreconditionError(absl::StrCat(
      path,
      ": this leads to an automount point or the network, or through a link of "
      "another user; put the file itself there"));
}

// The names in a directory; none when it is missing.
absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDirectory> stream(opendir(directory.c_str()));
  if (stream == nullptr) {
    if (errno == ENOENT || errno == ENOTDIR) return names;
    return FailedTo("read this directory", directory, errno);
  }
  while (true) {
    errno = 0;
    const dirent* entry = readdir(stream.get());
    if (entry != nullptr) {
      names.push_back(entry->d_name);
    } else if (errno != 0) {
      return FailedTo("read this directory", directory, errno);
    } else {
      return names;
    }
  }
}

// An empty file, or a link to /dev/null. Any error is for whoever reads it.
bool IsMask(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return false;
  return S_ISREG(st.st_mode) ? st.st_size == 0 : S_ISCHR(st.st_mode);
}

// The content of a regular file.
absl::StatusOr<std::string> Read(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st;
  if (!fd.valid()) return FailedTo("open this file", path, errno);
  if (FileStatus(fd.get(), &st) != 0) {
    return FailedTo("open this file", path, errno);
  }
  if (!S_ISREG(st.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": this is no regular file"));
  }
  std::string text;
  char piece[4096];
  while (text.size() <= kMaxFileBytes) {
    const ssize_t count = read(fd.get(), piece, sizeof(piece));
    if (count == 0) return text;
    if (count > 0) {
      text.append(piece, static_cast<size_t>(count));
    } else if (errno != EINTR) {
      return FailedTo("read this file", path, errno);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": this file is longer than 1 MiB"));
}

std::string Shown(absl::string_view text) {
  return Quoted(Shortened(text, kMaxShownBytes));
}

absl::string_view WithoutBlanks(absl::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == absl::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

bool IsComment(absl::string_view line) {
  const absl::string_view text = WithoutBlanks(line);
  return !text.empty() && (text[0] == '#' || text[0] == ';');
}

// A backslash that no other one precedes continues the line.
bool Continues(absl::string_view line) {
  size_t count = 0;
  while (count < line.size() && line[line.size() - 1 - count] == '\\') ++count;
  return count % 2 == 1;
}

// Takes the text of a file apart, line by line.
class Parser {
 public:
  Parser(const std::string& path, std::vector<ExportSetting>& settings)
      : path_(path), settings_(settings) {}

  // Takes the next line of the file, without its newline.
  absl::Status Take(absl::string_view line) {
    ++line_;
    if (IsComment(line)) return absl::OkStatus();
    if (pending_.empty()) first_line_ = line_;
    if (Continues(line)) {
      absl::StrAppend(&pending_, line.substr(0, line.size() - 1), " ");
      return absl::OkStatus();
    }
    return TakeWhole(absl::StrCat(std::exchange(pending_, ""), line));
  }

  // Takes what a backslash at the end of the file has left.
  absl::Status Finish() { return TakeWhole(std::exchange(pending_, "")); }

 private:
  absl::Status Wrong(absl::string_view complaint) const {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ":", first_line_, ": ", complaint));
  }

  absl::Status TakeWhole(const std::string& whole) {
    const absl::string_view line = WithoutBlanks(whole);
    if (line.empty()) return absl::OkStatus();
    if (!IsValidUtf8(line) || absl::StrContains(line, '\0')) {
      return Wrong("this line isn't valid UTF-8; systemd reads no other text");
    }
    if (line[0] == '[') {
      if (line.size() < 3 || line.back() != ']') {
        return Wrong(absl::StrCat(
            Shown(line), ": a section has its name in brackets, as [Export]"));
      }
      section_ = std::string(line.substr(1, line.size() - 2));
      return absl::OkStatus();
    }
    const size_t equals = line.find('=');
    const absl::string_view key = WithoutBlanks(line.substr(0, equals));
    if (equals == absl::string_view::npos || key.empty()) {
      return Wrong(absl::StrCat(Shown(line),
                                ": a setting is KEY=VALUE, and a comment "
                                "begins with #"));
    }
    // In a unit, without the blanks behind it, it would take the next line.
    if (Continues(line)) {
      return Wrong(absl::StrCat(Shown(line),
                                ": the backslash at its end continues nothing; "
                                "remove the blanks behind it, or double it"));
    }
    if (section_.empty()) {
      return Wrong(absl::StrCat(
          Shown(line), ": a section such as [Export] must come before it"));
    }
    settings_.push_back({section_, std::string(key),
                         std::string(WithoutBlanks(line.substr(equals + 1))),
                         path_, first_line_});
    return absl::OkStatus();
  }

  const std::string& path_;
  std::vector<ExportSetting>& settings_;
  std::string section_;
  std::string pending_;  // lines that the next one continues
  int line_ = 0;
  int first_line_ = 0;
};

// The drop-ins of one export, by file name.
using DropIns = std::map<std::string, std::string>;

// What directories have for one export.
struct ExportPaths {
  std::string path;  // NAME.export; empty for none
  DropIns drop_ins;
  std::vector<absl::Status> errors;
};

void AddDropIns(const std::string& directory, DropIns& drop_ins,
                std::vector<absl::Status>& errors) {
  const absl::StatusOr<std::vector<std::string>> names = NamesIn(directory);
  if (!names.ok()) {
    errors.push_back(names.status());
    return;
  }
  for (const std::string& name : *names) {
    if (name[0] == '.' || !absl::EndsWith(name, kDropInSuffix)) continue;
    drop_ins.emplace(name, PathIn(directory, name));
  }
}

// Finds the files of exports in one directory after the other, and looks at
// them before anything follows them.
class Finder {
 public:
  explicit Finder(const CarefulLook& look) : look_(look) {}

  absl::Status TakeDirectory(const std::string& directory) {
    const absl::StatusOr<std::vector<std::string>> names = NamesIn(directory);
    if (!names.ok()) return names.status();
    const bool is_near = IsNear(directory);
    for (const std::string& file : *names) {
      absl::string_view name = file;
      if (name[0] == '.') continue;  // an editor's
      const std::string path = PathIn(directory, file);
      if (absl::ConsumeSuffix(&name, kSuffix)) {
        ExportPaths& paths = exports_[std::string(name)];
        if (!paths.path.empty()) continue;
        paths.path = path;
        if (is_near) Look(path, paths);
      } else if (absl::ConsumeSuffix(&name, kDropInsSuffix)) {
        TakeDropIns(path, is_near, exports_[std::string(name)]);
      }
    }
    return absl::OkStatus();
  }

  const std::map<std::string, ExportPaths>& exports() const { return exports_; }

 private:
  bool IsNear(const std::string& path) const {
    return look_.At(path).what != CarefulLook::Seen::What::kUnknown;
  }

  // Whether the path may be followed.
  bool Look(const std::string& path, ExportPaths& paths) const {
    if (IsNear(path)) return true;
    paths.errors.push_back(Elsewhere(path));
    return false;
  }

  void TakeDropIns(const std::string& directory, bool is_near,
                   ExportPaths& paths) const {
    if (is_near && !Look(directory, paths)) return;
    DropIns drop_ins;
    AddDropIns(directory, drop_ins, paths.errors);
    for (const auto& [name, path] : drop_ins) {
      if (paths.drop_ins.emplace(name, path).second && is_near) {
        Look(path, paths);
      }
    }
  }

  const CarefulLook& look_;
  std::map<std::string, ExportPaths> exports_;
};

std::vector<std::string> InOrder(const DropIns& drop_ins) {
  std::vector<std::string> paths;
  for (const auto& [name, path] : drop_ins) {
    if (!IsMask(path)) paths.push_back(path);
  }
  return paths;
}

}  // namespace

std::string UserConfiguration() {
  const char* config = std::getenv("XDG_CONFIG_HOME");
  if (config != nullptr && config[0] == '/') return config;
  const char* home = std::getenv("HOME");
  return home != nullptr && home[0] == '/' ? PathIn(home, ".config") : "";
}

std::vector<std::string> ExportDirectories(ManagerScope scope,
                                           absl::string_view root) {
  std::vector<std::string> directories;
  if (scope == ManagerScope::kSystem) {
    directories = {"/etc/nbdinetd", "/run/nbdinetd", "/usr/local/lib/nbdinetd",
                   "/usr/lib/nbdinetd"};
  } else {
    const std::string config = UserConfiguration();
    if (!config.empty()) directories.push_back(PathIn(config, "nbdinetd"));
    directories.push_back("/etc/nbdinetd/user");
  }
  for (std::string& directory : directories) {
    directory = absl::StrCat(root, directory);
  }
  return directories;
}

FoundExports FindExports(const std::vector<std::string>& directories,
                         const CarefulLook& look) {
  FoundExports found;
  Finder finder(look);
  for (const std::string& directory : directories) {
    absl::Status status = finder.TakeDirectory(directory);
    if (!status.ok()) found.errors.push_back(std::move(status));
  }
  for (const auto& [name, paths] : finder.exports()) {
    // Without one of its files, an export could have fewer limits.
    found.errors.insert(found.errors.end(), paths.errors.begin(),
                        paths.errors.end());
    if (paths.path.empty() || !paths.errors.empty() || IsMask(paths.path)) {
      continue;
    }
    found.exports.push_back({name, paths.path, InOrder(paths.drop_ins)});
  }
  return found;
}

ExportSources SourcesOfFile(const std::string& path) {
  absl::string_view name = path;
  name.remove_prefix(name.rfind('/') + 1);
  absl::ConsumeSuffix(&name, kSuffix);
  DropIns drop_ins;
  std::vector<absl::Status> ignored;
  AddDropIns(absl::StrCat(path, ".d"), drop_ins, ignored);
  return {std::string(name), path, InOrder(drop_ins)};
}

absl::Status CheckExportName(absl::string_view name) {
  if (name == "listen") {
    return absl::InvalidArgumentError(
        "the units of an export \"listen\" would have the names of the shipped "
        "nbdinetd-listen.socket and nbdinetd-listen.service; choose another "
        "name");
  }
  const bool valid =
      !name.empty() && name[0] != '.' && name.size() <= kMaxNameBytes &&
      std::all_of(name.begin(), name.end(), [](unsigned char c) {
        return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
      });
  if (!valid) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(name), " can't be the name of an export; use at most ",
        kMaxNameBytes, " letters, digits, '-', '_' and '.', the first no '.'"));
  }
  const auto dashes =
      static_cast<size_t>(std::count(name.begin(), name.end(), '-'));
  if (name.size() + 3 * dashes > kMaxNameBytesInSlice) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(name),
        " has too many dashes to be the name of an export: in the name of its "
        "slice each of them is four characters; use '_' or '.' instead"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExportFile> ReadExport(const ExportSources& sources) {
  if (absl::Status name = CheckExportName(sources.name); !name.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(sources.path, ": ", name.message()));
  }
  ExportFile file{sources, {}};
  std::vector<std::string> paths = {sources.path};
  paths.insert(paths.end(), sources.drop_ins.begin(), sources.drop_ins.end());
  for (const std::string& path : paths) {
    const absl::StatusOr<std::string> text = Read(path);
    if (!text.ok()) return text.status();
    const absl::Status parsed = ParseExportText(*text, path, file.settings);
    if (!parsed.ok()) return parsed;
  }
  return file;
}

absl::Status ParseExportText(absl::string_view text, const std::string& path,
                             std::vector<ExportSetting>& settings) {
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");  // a byte order mark
  Parser parser(path, settings);
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    absl::Status status = parser.Take(text.substr(0, end));
    if (!status.ok()) return status;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parser.Finish();
}

std::vector<const ExportSetting*> SettingsOf(const ExportFile& file,
                                             absl::string_view section,
                                             absl::string_view key) {
  std::vector<const ExportSetting*> found;
  for (const ExportSetting& setting : file.settings) {
    if (setting.section != section || setting.key != key) continue;
    if (setting.value.empty()) {
      found.clear();
    } else {
      found.push_back(&setting);
    }
  }
  return found;
}

const ExportSetting* LastSettingOf(const ExportFile& file,
                                   absl::string_view section,
                                   absl::string_view key) {
  const std::vector<const ExportSetting*> found =
      SettingsOf(file, section, key);
  return found.empty() ? nullptr : found.back();
}

absl::Status ErrorAt(const ExportSetting& setting,
                     absl::string_view complaint) {
  return absl::InvalidArgumentError(
      absl::StrCat(setting.path, ":", setting.line, ": ",
                   Shortened(complaint, kMaxComplaintBytes)));
}

std::string Shortened(absl::string_view text, size_t size) {
  if (text.size() <= size) return std::string(text);
  // The bytes that continue a character are 10xxxxxx.
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) {
    --size;
  }
  return absl::StrCat(text.substr(0, size), "...");
}

std::string ShownValue(absl::string_view value) {
  const bool plain =
      !value.empty() &&
      std::all_of(value.begin(), value.end(), [](unsigned char c) {
        return absl::ascii_isalnum(c) || absl::StrContains("-_./:+@%,", c);
      });
  const std::string shown = Shortened(value, kMaxShownBytes);
  return plain ? shown : Quoted(shown);
}

absl::StatusOr<bool> BooleanOf(const ExportSetting& setting) {
  for (const char* word : {"1", "yes", "y", "true", "t", "on"}) {
    if (absl::EqualsIgnoreCase(setting.value, word)) return true;
  }
  for (const char* word : {"0", "no", "n", "false", "f", "off"}) {
    if (absl::EqualsIgnoreCase(setting.value, word)) return false;
  }
  return ErrorAt(setting,
                 absl::StrCat(setting.key, "=", ShownValue(setting.value),
                              ": use yes or no"));
}

}  // namespace nbdinetd
