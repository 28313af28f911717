// Finds and reads the files that describe exports: NAME.export with drop-ins
// NAME.export.d/*.conf, in the syntax of systemd.syntax(7).
//
// This file knows nothing of the meaning of a setting. Several directories may
// have a file for the same export: the first directory that has NAME.export
// decides, and an empty file there, or a link to /dev/null, masks the export.
// Drop-ins come from all directories, sorted by file name; of two with the same
// name, the first directory's counts, and an empty one masks the other.
//
// Nothing here waits: files that aren't regular are an error, and so are files
// of a directory that lead out of it to where looking may wait
// (careful_look.h). No name is looked up. Threads: any.
#ifndef NBDINETD_GENERATOR_EXPORT_FILE_H_
#define NBDINETD_GENERATOR_EXPORT_FILE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "generator/careful_look.h"

namespace nbdinetd {

// The service manager that starts the export.
enum class ManagerScope { kSystem, kUser };

// An assignment "KEY=VALUE" of a section.
struct ExportSetting {
  std::string section;  // without its brackets
  std::string key;
  std::string value;  // without blanks around it; empty resets a list
  std::string path;   // the file that has it
  int line = 0;       // the first of its lines, from 1 on
};

// The files that describe one export.
struct ExportSources {
  std::string name;
  std::string path;                   // NAME.export
  std::vector<std::string> drop_ins;  // in the order in which they apply
};

// The content of these files.
struct ExportFile {
  ExportSources sources;
  std::vector<ExportSetting> settings;  // in the order in which they apply
};

// What FindExports() has found.
struct FoundExports {
  std::vector<ExportSources> exports;  // sorted by name, masked ones left out
  // Directories that can't be read, and files that can't be looked at.
  std::vector<absl::Status> errors;
};

// The user's directory of configuration: $XDG_CONFIG_HOME, or .config in $HOME;
// empty if neither is an absolute path.
std::string UserConfiguration();

// The directories that may have .export files, the most important one first.
// `root` is put before each of them ("" for none). The user's is in
// UserConfiguration().
std::vector<std::string> ExportDirectories(ManagerScope scope,
                                           absl::string_view root = "");

// The exports that `directories` describe. A missing directory is no error. A
// file whose name isn't valid is among them: ReadExport() returns the error. An
// export is left out if one of its files leads to where looking may wait,
// unless the whole directory is there.
FoundExports FindExports(const std::vector<std::string>& directories,
                         const CarefulLook& look = CarefulLook());

// The sources of a file that is named by its path, wherever it is, with the
// drop-ins beside it: "./golden.export". `name` is the file name without
// ".export".
ExportSources SourcesOfFile(const std::string& path);

// Checks the name of an export: 1 to 100 letters, digits, '-', '_' and '.', no
// '.' at its beginning, and not "listen", whose units have the names of shipped
// ones. InvalidArgument says what is wrong.
absl::Status CheckExportName(absl::string_view name);

// Reads the files. InvalidArgument: the name, or a line that is no comment,
// section or assignment; another code: a file can't be read. Every message
// begins with a path, and for a line its number: "/etc/nbdinetd/a.export:7: ".
absl::StatusOr<ExportFile> ReadExport(const ExportSources& sources);

// Appends the settings in `text`, the content of the file `path`.
// InvalidArgument as from ReadExport().
absl::Status ParseExportText(absl::string_view text, const std::string& path,
                             std::vector<ExportSetting>& settings);

// The settings of one key that hold: those after the last empty assignment. Of
// a key that is no list, the last one holds.
std::vector<const ExportSetting*> SettingsOf(const ExportFile& file,
                                             absl::string_view section,
                                             absl::string_view key);

// The last of SettingsOf(); nullptr when there is none.
const ExportSetting* LastSettingOf(const ExportFile& file,
                                   absl::string_view section,
                                   absl::string_view key);

// InvalidArgument "PATH:LINE: COMPLAINT". A long complaint is shortened.
absl::Status ErrorAt(const ExportSetting& setting, absl::string_view complaint);

// The first `size` bytes of a text that is longer, and "...". No character of
// UTF-8 is cut in two.
std::string Shortened(absl::string_view text, size_t size);

// A value for a message: as it is, or Quoted() if it has other characters than
// letters, digits and those of paths and addresses. A long one is shortened.
std::string ShownValue(absl::string_view value);

// The boolean value of a setting, as systemd.syntax(7) spells it: 1, yes, y,
// true, t, on; 0, no, n, false, f, off, in any case. InvalidArgument names the
// setting otherwise.
absl::StatusOr<bool> BooleanOf(const ExportSetting& setting);

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_EXPORT_FILE_H_
