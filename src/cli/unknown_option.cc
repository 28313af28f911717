#include "cli/unknown_option.h"

#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/edit_distance.h"
#include "base/errors.h"
#include "cli/option_table.h"

namespace nbdinetd {
namespace {

// A word of nbdkit's command line, and what serves instead.
struct Foreign {
  const char* name;
  const char* instead;
};

constexpr char kNoHiding[] =
    "nbdinetd hides no feature: a client that doesn't request it doesn't get "
    "it";
constexpr char kNewstyleOnly[] =
    "nbdinetd has only the fixed newstyle handshake, which every current "
    "client uses: leave the option out";
constexpr char kTimeLimit[] = "--handshake-timeout=TIME limits the handshake";
constexpr char kKeepalive[] =
    "keepalive is always on, and --keepalive=TIME changes its time";
constexpr char kPrintUri[] = "the same option is --print-uri";
constexpr char kProbing[] =
    "--version and --help say what this program is and has";

constexpr Foreign kOptions[] = {
    {"debug", "-v writes debug messages to standard error"},
    {"D", "-v writes debug messages to standard error"},
    {"dump-config", kProbing},
    {"dump-plugin", kProbing},
    {"keep-alive", kKeepalive},
    {"long-options", kProbing},
    {"mask-handshake", kNoHiding},
    {"name", "-e names the export, and --description describes it"},
    {"no-mc", kNoHiding},
    {"no-meta-contexts", kNoHiding},
    {"no-sr", kNoHiding},
    {"no-structured-replies", kNoHiding},
    {"o", kNewstyleOnly},
    {"old-style", kNewstyleOnly},
    {"oldstyle", kNewstyleOnly},
    {"print-url", kPrintUri},
    {"selinux-label",
     "let systemd make the socket (nbdinetd.socket), and label it by the "
     "system's policy"},
    {"short-options", kProbing},
    {"show-uri", kPrintUri},
    {"show-url", kPrintUri},
    {"swap", "MemorySwapMax=0 in the unit keeps the memory out of the swap"},
    {"time-out", kTimeLimit},
    {"timeout", kTimeLimit},
    {"tls-priority", "OpenSSL's configuration restricts the ciphers"},
};

constexpr char kByItself[] = "nbdinetd does this by itself: leave it out";
constexpr char kForTests[] = "nbdinetd has nothing of this kind for tests";
constexpr char kUnpack[] = "unpack the file first, and serve the result";
constexpr char kStorage[] =
    "the block layer does this (md, device mapper): serve its device";

constexpr Foreign kFilters[] = {
    {"blocksize", kByItself},
    {"blocksize-policy",
     "--block-size=MIN:PREFERRED:MAX sets and enforces the sizes"},
    {"bzip2", kUnpack},
    {"cache", kByItself},
    {"cacheextents", kByItself},
    {"checkwrite", "cmp(1) compares a file with another"},
    {"count", "the journal has the bytes of each connection"},
    {"cow", "--cow gives each client a private copy"},
    {"ddrescue", kStorage},
    {"delay", kForTests},
    {"error", kForTests},
    {"evil", kForTests},
    {"exitlast",
     "the process of a connection ends with it (-s, or systemd), and "
     "--exit-idle=TIME ends a listener that systemd started"},
    {"exitwhen", "--exit-with-parent, --run, or systemd's BindsTo="},
    {"exportname", "-e names the export; --directory serves several"},
    {"ext2", "mount the file system (losetup), and serve the file in it"},
    {"extentlist", kByItself},
    {"fua", kByItself},
    {"gzip", kUnpack},
    {"ip", "--allow and --deny decide who may connect"},
    {"limit", "--max-connections=N limits the connections"},
    {"log", "the journal has two lines for each connection; -v logs more"},
    {"luks", "cryptsetup(8) opens the volume: serve its device"},
    {"lzip", kUnpack},
    {"multi-conn", "--multi-conn=auto|on|off decides"},
    {"nocache", kByItself},
    {"noextents", kNoHiding},
    {"nofilter", kByItself},
    {"noparallel", kByItself},
    {"nozero", kNoHiding},
    {"offset", "--offset=BYTES and --length=BYTES serve a part"},
    {"openonce", kByItself},
    {"partition", "--partition=N serves a partition"},
    {"pause", "systemctl freeze suspends a connection's unit"},
    {"protect", "-r protects the whole export"},
    {"qcow2dec", "qemu-nbd(8) serves the contents of a qcow2 image"},
    {"rate",
     "--max-rate limits each connection; nbdinetd.export(5) says what limits "
     "all together"},
    {"readahead", kByItself},
    {"readonly", "-r exports read-only"},
    {"retry", kStorage},
    {"retry-request", kStorage},
    {"rotational", kByItself},
    {"scan", kByItself},
    {"spinning", kByItself},
    {"stats", "the journal's last line of a connection has its figures"},
    {"swab", "dd conv=swab makes a copy: serve that"},
    {"tar", kUnpack},
    {"time-limit", "RuntimeMaxSec= in the unit limits a connection"},
    {"timeout", "--stall-timeout and --idle-timeout limit a client"},
    {"tls-fallback", "--tls=require refuses clients without TLS"},
    {"truncate",
     "--size=BYTES, up:BYTES or down:BYTES gives an export another size"},
    {"xz", kUnpack},
};

constexpr char kParameterOfFile[] =
    "nbdinetd uses the page cache, and the kernel reads ahead: leave it out";

constexpr Foreign kParameters[] = {
    {"cache", "--cache=drop leaves nothing in the page cache"},
    {"dir", "--directory=DIR serves the files of a directory"},
    {"directory", "--directory=DIR serves the files of a directory"},
    {"dirfd", "--directory=/dev/fd/N serves the files of a directory"},
    {"fadvise", kParameterOfFile},
    {"fd", "FILE may be /dev/fd/N"},
};

constexpr absl::string_view kPlugins[] = {
    "S3",       "blkio",  "cc",       "cdi",           "curl",
    "data",     "eval",   "example1", "example2",      "example3",
    "example4", "floppy", "full",     "gcs",           "golang",
    "guestfs",  "info",   "iso",      "libvirt",       "linuxdisk",
    "lua",      "memory", "nbd",      "null",          "ocaml",
    "ondemand", "ones",   "pattern",  "partitioning",  "perl",
    "python",   "random", "ruby",     "rust",          "sh",
    "split",    "ssh",    "tcl",      "sparse-random", "tmpdisk",
    "torrent",  "vddk",   "zero",
};

const char* Find(absl::Span<const Foreign> table, absl::string_view name) {
  const auto found = absl::c_find_if(
      table, [name](const Foreign& row) { return row.name == name; });
  return found == table.end() ? nullptr : found->instead;
}

// Names of options, with their dashes.
std::vector<std::string> OptionsThatBeginWith(absl::string_view name) {
  std::vector<std::string> found;
  for (const OptionRow& row : OptionTable()) {
    if (absl::StartsWith(row.name, name)) {
      found.push_back(absl::StrCat("--", row.name));
    }
  }
  return found;
}

// The option with the most similar name, if at most a third of the characters
// differ.
const OptionRow* MostSimilar(absl::string_view name) {
  const OptionRow* similar = nullptr;
  size_t least = name.size() / 3 + 1;
  for (const OptionRow& row : OptionTable()) {
    for (const char* spelling : {row.name, row.alias}) {
      if (spelling == nullptr) continue;
      const size_t distance = EditDistance(name, spelling);
      if (distance >= least) continue;
      least = distance;
      similar = &row;
    }
  }
  return similar;
}

std::string ExplainFilter(absl::string_view name) {
  const char* instead = Find(kFilters, name);
  return absl::StrCat(
      name.empty() ? "--filter" : absl::StrCat("--filter=", name),
      " is nbdkit's; nbdinetd has no filters",
      instead == nullptr ? "" : absl::StrCat(": ", instead));
}

std::string IsUnknown(absl::string_view option, const OptionRow* similar) {
  return absl::StrCat("option ", Quoted(option), " is unknown",
                      similar == nullptr ? ""
                                         : absl::StrCat("; did you mean --",
                                                        similar->name, "?"));
}

}  // namespace

std::string ExplainLongOption(absl::string_view name, absl::string_view value) {
  if (name == "filter") {
    return ExplainFilter(*absl::StrSplit(value, ' ').begin());
  }
  if (const char* instead = Find(kOptions, name)) {
    return absl::StrCat("--", name, " is nbdkit's; ", instead);
  }
  const std::vector<std::string> longer = OptionsThatBeginWith(name);
  if (!name.empty() && longer.size() > 1) {
    return absl::StrCat(
        "option ", Quoted(absl::StrCat("--", name)),
        " is the beginning of several options: ", absl::StrJoin(longer, ", "));
  }
  return IsUnknown(absl::StrCat("--", name), MostSimilar(name));
}

std::string ExplainLetter(char letter) {
  const std::string name(1, letter);
  if (const char* instead = Find(kOptions, name)) {
    return absl::StrCat("-", name, " is nbdkit's; ", instead);
  }
  const absl::Span<const OptionRow> table = OptionTable();
  const auto other_case =
      absl::c_find_if(table, [letter](const OptionRow& row) {
        return row.letter != '\0' &&
               absl::ascii_tolower(static_cast<unsigned char>(row.letter)) ==
                   absl::ascii_tolower(static_cast<unsigned char>(letter));
      });
  if (other_case == table.end()) {
    return IsUnknown(absl::StrCat("-", name), nullptr);
  }
  return absl::StrCat(IsUnknown(absl::StrCat("-", name), nullptr),
                      "; did you mean -", std::string(1, other_case->letter),
                      " (--", other_case->name, ")?");
}

std::optional<std::string> ExplainPlugin(absl::string_view word) {
  if (!absl::c_linear_search(kPlugins, word)) return std::nullopt;
  return absl::StrCat(Quoted(word),
                      " is a plugin of nbdkit's; nbdinetd serves one FILE, or "
                      "the files of --directory=DIR");
}

std::optional<std::string> ExplainParameter(absl::string_view word) {
  const size_t equals = word.find('=');
  if (equals == absl::string_view::npos) return std::nullopt;
  const char* instead = Find(kParameters, word.substr(0, equals));
  if (instead == nullptr) return std::nullopt;
  return absl::StrCat(Quoted(word), " is a parameter of nbdkit's; ", instead);
}

}  // namespace nbdinetd
