#include "cli/open_catalog.h"

#include <fcntl.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "cli/output.h"
#include "export/copy_on_write.h"
#include "export/directory.h"
#include "export/export.h"
#include "export/kept_catalog.h"
#include "export/open.h"
#include "partition/table_reader.h"

namespace nbdinetd {
namespace {

// Logs what a client may not expect of an export.
void LogNotices(const Log& log, const std::string& name, const Export& target,
                const std::string& read_only_reason) {
  if (!read_only_reason.empty()) {
    log.Write(Priority::kNotice, message_id::kReadOnly,
              ReadOnlyNotice(name, read_only_reason),
              {{"NBD_REASON", read_only_reason}});
  }
  if (target.facts().lacks_direct) {
    log.Write(
        Priority::kNotice,
        absl::StrCat(
            Quoted(name), " is on ", target.facts().storage.promises->name,
            ", which can't be written to beside the page cache (O_DIRECT): "
            "other hosts see what clients write once it is flushed, or "
            "later; --cache=writeback says that this is meant, and "
            "--shared=no that no other host serves it"));
  }
  if (target.facts().unserved_bytes > 0) {
    log.Write(Priority::kNotice,
              absl::StrCat("the last ", target.facts().unserved_bytes,
                           " bytes of ", Quoted(name),
                           " aren't served: its size is no multiple of the "
                           "minimum of --block-size"));
  } else if (target.facts().size_bytes == 0) {
    log.Write(Priority::kNotice,
              absl::StrCat(Quoted(name),
                           " is empty: clients get an export of 0 bytes, and "
                           "can store nothing in it; 'truncate -s SIZE' gives "
                           "a file its size"));
  }
}

// `tables` is nullptr without --partition; so for OpenFiles().
absl::StatusOr<std::unique_ptr<Catalog>> OpenFile(const Options& options,
                                                  TableReader* tables,
                                                  const Log& log) {
  std::string read_only_reason;
  absl::StatusOr<std::unique_ptr<Export>> opened = OpenExport(
      options.file, options.export_settings, &read_only_reason, tables);
  if (!opened.ok()) return opened.status();
  LogNotices(log, options.file, **opened, read_only_reason);
  return Catalog::OfOne(*std::move(opened), options.export_name,
                        options.description);
}

absl::StatusOr<std::unique_ptr<Catalog>> OpenFiles(const Invocation& invocation,
                                                   TableReader* tables,
                                                   const Log& log) {
  const Options& options = invocation.options;
  const std::vector<NamedFile>& files = invocation.files;
  if (options.export_name.has_value() && files.size() > 1) {
    return absl::InvalidArgumentError(
        "--exportname can't name several files at once; LISTEN_FDNAMES does");
  }
  std::vector<Catalog::Entry> entries;
  std::set<std::string> names;
  for (const NamedFile& file : files) {
    const std::string name = options.export_name.value_or(file.name);
    if (!names.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "two of the files handed over have the name ", Quoted(name),
          ": give each its own, as by OpenFile=PATH:NAME in the unit"));
    }
    // In the sandbox, any descriptor can take the place of the copy's (dup3).
    if (options.copies.keep &&
        (fcntl(file.fd.get(), F_GETFL) & O_ACCMODE) != O_RDONLY) {
      return absl::InvalidArgumentError(absl::StrCat(
          Quoted(name),
          " was handed over open for writing, and --cow=keep never writes to "
          "it: hand it over open for reading, as by "
          "OpenFile=PATH:NAME:read-only in the unit"));
    }
    std::string read_only_reason;
    absl::StatusOr<std::unique_ptr<Export>> opened =
        OpenHandedOver(file.fd.get(), name, options.export_settings,
                       &read_only_reason, tables);
    if (!opened.ok()) return opened.status();
    // The lock of a kept copy is on the copy.
    if (options.exclusive != Exclusive::kOff && !options.copies.keep &&
        (*opened)->shares_description()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--exclusive can't lock ", Quoted(name),
          ", which was handed over: this process may not open it anew, and "
          "shares it, and its locks, with whoever handed it over; give it the "
          "right to open the file"));
    }
    LogNotices(log, name, **opened, read_only_reason);
    entries.push_back({name, options.description, *std::move(opened)});
  }
  return Catalog::OfNamed(std::move(entries));
}

absl::StatusOr<std::unique_ptr<Catalog>> OpenOriginals(
    const Invocation& invocation, const Log& log,
    const ShutdownNotice& shutdown) {
  const Options& options = invocation.options;
  std::unique_ptr<TableReader> tables;
  if (options.partitions || options.export_settings.partition.has_value()) {
    // Before any key is loaded: its process has a copy of the memory.
    absl::StatusOr<std::unique_ptr<TableReader>> started =
        TableReader::Start(options.sandbox, shutdown);
    if (!started.ok()) return started.status();
    tables = *std::move(started);
  }
  if (!options.directory.empty()) {
    return OpenDirectory(options.directory, options.export_settings,
                         options.export_name.value_or(""), std::move(tables));
  }
  absl::StatusOr<std::unique_ptr<Catalog>> catalog =
      invocation.files.empty() ? OpenFile(options, tables.get(), log)
                               : OpenFiles(invocation, tables.get(), log);
  if (tables != nullptr) TableReader::End(std::move(tables));
  return catalog;
}

absl::StatusOr<std::unique_ptr<Catalog>> OpenCatalog(
    const Invocation& invocation, const Log& log,
    const ShutdownNotice& shutdown) {
  const CopySettings& copies = invocation.options.copies;
  absl::StatusOr<std::unique_ptr<Catalog>> catalog =
      OpenOriginals(invocation, log, shutdown);
  if (!catalog.ok() || !copies.enabled) return catalog;
  if (copies.keep) {
    return WithKeptCopies(*std::move(catalog), copies,
                          invocation.options.export_settings);
  }
  absl::StatusOr<PrivateCopy> copy = PrivateCopy::Create(copies);
  if (!copy.ok()) return copy.status();
  return WithPrivateCopies(*std::move(catalog), *std::move(copy));
}

// Loads the TLS settings; nullptr with --tls=off.
absl::StatusOr<std::unique_ptr<Tls>> LoadTls(const Options& options,
                                             KeyWarnings warnings,
                                             const Log& log) {
  if (options.tls.mode == TlsMode::kOff) return nullptr;
  absl::StatusOr<std::unique_ptr<Tls>> tls = Tls::Load(options.tls);
  if (tls.ok() && warnings == KeyWarnings::kTell &&
      !(*tls)->warning().empty()) {
    log.Write(Priority::kWarning, message_id::kKeyWarning, (*tls)->warning(),
              {{"NBD_REASON", (*tls)->warning()}});
  }
  return tls;
}

// What --negotiated needs besides its own options.
absl::Status CheckNegotiatedSource(const Options& options,
                                   const Inherited& inherited) {
  if (!options.negotiated.has_value()) return absl::OkStatus();
  if (inherited.files.size() > 1) {
    return absl::InvalidArgumentError(
        "--negotiated can't be used with several files handed over: the name "
        "that the client has chosen isn't known here; hand over the one file");
  }
  if (options.check || inherited.connection.has_value()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--negotiated needs a connection, and there is ",
      inherited.listeners.empty() ? "none"
                                  : "a listening socket, whose "
                                    "clients have negotiated nothing",
      ": hand one over, as standard input with --single, or by LISTEN_FDS"));
}

}  // namespace

absl::Status CheckSources(const Options& options, const Inherited& inherited) {
  const std::vector<NamedFile>& files = inherited.files;
  const absl::string_view named = !options.directory.empty() ? "--directory"
                                  : !options.file.empty()    ? "FILE"
                                                             : "";
  if (files.empty() && named.empty()) {
    return absl::InvalidArgumentError(
        "there is no FILE to serve, nor --directory=DIR: name one on the "
        "command line; for nbdinetd.socket, by NBDINETD_EXPORT= in "
        "/etc/default/nbdinetd; or write an .export file; see nbdinetd "
        "--help");
  }
  if (files.empty() || named.empty()) {
    return CheckNegotiatedSource(options, inherited);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "both ", named,
      " and files handed over as descriptors: leave out one of them"));
}

absl::StatusOr<Opened> OpenCatalogAndTls(const Invocation& invocation,
                                         MissingExport missing,
                                         KeyWarnings warnings, const Log& log,
                                         const ShutdownNotice& shutdown) {
  Opened opened;
  auto catalog = OpenCatalog(invocation, log, shutdown);
  if (catalog.ok()) {
    opened.catalog = *std::move(catalog);
  } else if (missing == MissingExport::kFail ||
             absl::IsInvalidArgument(catalog.status())) {
    return catalog.status();
  } else {
    Fail(log, catalog.status());
    opened.missing = catalog.status();
  }
  auto tls = LoadTls(invocation.options, warnings, log);
  if (!tls.ok()) return tls.status();
  opened.tls = *std::move(tls);
  return opened;
}

}  // namespace nbdinetd
