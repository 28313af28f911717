#include "cli/options.h"

#include <getopt.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "base/exit_status.h"

namespace nbdinetd {
namespace {

struct Parsed {
  absl::Status status;
  Options options;
};

Parsed Parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "nbdinetd");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // A program parses its command line once; here, 0 makes the C library start
  // anew.
  optind = 0;
  Parsed parsed;
  parsed.status = ParseOptions(static_cast<int>(arguments.size()), argv.data(),
                               &parsed.options);
  return parsed;
}

// All that was understood, in words, so that one comparison also shows what was
// not meant to change.
std::string Words(const Options& options) {
  std::ostringstream words;
  if (options.export_settings.read_only) words << "read-only ";
  if (options.export_name.has_value())
    words << "name(" << *options.export_name << ") ";
  if (!options.description.empty())
    words << "description(" << options.description << ") ";
  if (options.activation.single) words << "single ";
  if (options.activation.foreground) words << "foreground ";
  if (options.check) words << "check ";
  if (options.check_json) words << "json ";
  if (options.version) words << "version ";
  if (options.help) words << "help ";
  if (options.verbose) words << "verbose ";
  if (options.log.has_value()) {
    constexpr const char* kNames[] = {"stderr", "syslog", "journal", "null",
                                      "file "};
    words << "log(" << kNames[static_cast<int>(*options.log)]
          << options.log_file << ") ";
  }
  if (!options.directory.empty()) {
    words << "directory(" << options.directory << ") ";
  }
  if (options.export_settings.block_sizes.has_value()) {
    const BlockSizes& sizes = *options.export_settings.block_sizes;
    words << "blocks(" << sizes.minimum << ":" << sizes.preferred << ":"
          << sizes.advertised_payload << ") ";
    EXPECT_EQ(sizes.accepted_payload, sizes.advertised_payload);
    EXPECT_TRUE(sizes.chosen);
  }
  if (options.negotiated.has_value()) {
    constexpr const char* kStyles[] = {"simple", "structured", "extended"};
    words << "negotiated("
          << kStyles[static_cast<int>(options.negotiated->style)]
          << (options.negotiated->base_allocation ? " context" : "") << ") ";
  }
  if (options.print_uri) words << "print-uri ";
  if (options.parent.has_value()) words << "parent ";
  if (options.listen.family == AF_INET) words << "ipv4 ";
  if (options.listen.family == AF_INET6) words << "ipv6 ";
  words << "file(" << options.file << ")";
  return words.str();
}

struct Row {
  std::vector<std::string> arguments;
  std::string words;
};

std::string Join(const std::vector<std::string>& arguments) {
  std::string text;
  for (const std::string& argument : arguments) text += "[" + argument + "]";
  return text;
}

void ExpectAll(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    const Parsed parsed = Parse(row.arguments);
    EXPECT_TRUE(parsed.status.ok())
        << Join(row.arguments) << ": " << parsed.status;
    EXPECT_EQ(Words(parsed.options), row.words) << Join(row.arguments);
  }
}

TEST(Options, EachHasItsMeaning) {
  ExpectAll({
      {{}, "file()"},
      {{"disk"}, "file(disk)"},
      {{"-r", "disk"}, "read-only file(disk)"},
      {{"--readonly", "disk"}, "read-only file(disk)"},
      {{"-e", "name", "disk"}, "name(name) file(disk)"},
      {{"--exportname", "name", "disk"}, "name(name) file(disk)"},
      {{"--exportname=name", "disk"}, "name(name) file(disk)"},
      // nbdkit knows both spellings.
      {{"--export-name=name", "disk"}, "name(name) file(disk)"},
      {{"--description=a disk", "disk"}, "description(a disk) file(disk)"},
      {{"--directory=/srv/nbd"}, "directory(/srv/nbd) file()"},
      {{"--directory", "/srv/nbd", "--", ""}, "directory(/srv/nbd) file()"},
      {{"--block-size=1:512:512", "disk"}, "blocks(1:512:512) file(disk)"},
      {{"--block-size=4K:64K:32M", "disk"},
       "blocks(4096:65536:33554432) file(disk)"},
      {{"--block-size=64K:64K:64M", "disk"},
       "blocks(65536:65536:67108864) file(disk)"},
      {{"-s", "disk"}, "single file(disk)"},
      {{"--single", "disk"}, "single file(disk)"},
      {{"--negotiated=simple", "disk"}, "negotiated(simple) file(disk)"},
      {{"-s", "--negotiated=structured", "disk"},
       "single negotiated(structured) file(disk)"},
      {{"--negotiated", "extended,base:allocation", "disk"},
       "negotiated(extended context) file(disk)"},
      {{"--negotiated=structured,base:allocation", "--negotiated=extended",
        "disk"},
       "negotiated(extended) file(disk)"},
      {{"-f", "disk"}, "foreground file(disk)"},
      {{"--foreground", "disk"}, "foreground file(disk)"},
      {{"-v", "disk"}, "verbose file(disk)"},
      {{"--verbose", "disk"}, "verbose file(disk)"},
      {{"--check", "disk"}, "check file(disk)"},
      {{"--check=text", "disk"}, "check file(disk)"},
      {{"--check=json", "disk"}, "check json file(disk)"},
      {{"-V"}, "version file()"},
      {{"--version"}, "version file()"},
      {{"--help"}, "help file()"},
      {{"--log=stderr", "disk"}, "log(stderr) file(disk)"},
      {{"--log=syslog", "disk"}, "log(syslog) file(disk)"},
      {{"--log=journal", "disk"}, "log(journal) file(disk)"},
      {{"--log=null", "disk"}, "log(null) file(disk)"},
      {{"--log", "null", "disk"}, "log(null) file(disk)"},
      {{"--log=/var/log/nbd", "disk"}, "log(file /var/log/nbd) file(disk)"},
      {{"--log=null", "--log=default", "disk"}, "file(disk)"},
      {{"--log=/a", "--log=null", "disk"}, "log(null) file(disk)"},
      {{"--print-uri", "disk"}, "print-uri file(disk)"},
      {{"--exit-with-parent", "disk"}, "parent file(disk)"},
      {{"-4", "disk"}, "ipv4 file(disk)"},
      {{"--ipv6-only", "disk"}, "ipv6 file(disk)"},
  });
}

// What nbdkit(1) has is taken as it is there.
TEST(Options, ACommandLineOfNbdkitIsTaken) {
  ExpectAll({
      {{"file", "disk"}, "file(disk)"},
      {{"file=disk"}, "file(disk)"},
      {{"file", "file=disk"}, "file(disk)"},
      {{"file", "-r", "file=a=b"}, "read-only file(a=b)"},
      {{"file"}, "file(file)"},
      {{"./file=disk"}, "file(./file=disk)"},
      {{"-4", "-6", "disk"}, "ipv6 file(disk)"},
      {{"-6", "--ipv4-only", "disk"}, "ipv4 file(disk)"},
      {{"-n", "disk"}, "file(disk)"},
      {{"--newstyle", "--new-style", "disk"}, "file(disk)"},
      {{"-t", "4", "--threads=16", "disk"}, "file(disk)"},
      {{"--read-only", "--no-fork", "disk"}, "read-only foreground file(disk)"},
      {{"--stdin", "disk"}, "single file(disk)"},
  });
}

TEST(Options, FollowTheConventionsOfGetopt) {
  ExpectAll({
      // Bundled letters, the last of which may take an argument.
      {{"-rsv", "disk"}, "read-only single verbose file(disk)"},
      {{"-rename", "disk"}, "read-only name(name) file(disk)"},
      {{"-re", "name", "disk"}, "read-only name(name) file(disk)"},
      {{"-ename", "disk"}, "name(name) file(disk)"},
      // Options may stand behind FILE.
      {{"disk", "-r", "-e", "name"}, "read-only name(name) file(disk)"},
      {{"-r", "disk", "--log=null"}, "read-only log(null) file(disk)"},
      // Nothing behind "--" is an option.
      {{"--", "-r"}, "file(-r)"},
      {{"-r", "--", "--help"}, "read-only file(--help)"},
      {{"disk", "--"}, "file(disk)"},
      {{"--"}, "file()"},
      // A single dash is a name.
      {{"-"}, "file(-)"},
      // An argument may look like an option.
      {{"-e", "-r", "disk"}, "name(-r) file(disk)"},
      {{"-e", "--", "disk"}, "name(--) file(disk)"},
      {{"--exportname", "--help", "disk"}, "name(--help) file(disk)"},
      // Long options can be abbreviated as long as they stay unique.
      {{"--read", "disk"}, "read-only file(disk)"},
      {{"--desc=x", "disk"}, "description(x) file(disk)"},
      {{"--verb", "disk"}, "verbose file(disk)"},
      {{"--vers"}, "version file()"},
      // Both completions mean the same.
      {{"--export=name", "disk"}, "name(name) file(disk)"},
      // Twice is no error; the last one counts.
      {{"-r", "-r", "disk"}, "read-only file(disk)"},
      {{"-e", "a", "-e", "b", "disk"}, "name(b) file(disk)"},
      {{"--log=null", "--log=journal", "disk"}, "log(journal) file(disk)"},
  });
}

TEST(Options, TheEmptyNameIsANameToo) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"-e", "", "disk"},
        {"--exportname=", "disk"}}) {
    const Parsed parsed = Parse(arguments);
    EXPECT_TRUE(parsed.status.ok());
    ASSERT_TRUE(parsed.options.export_name.has_value());
    EXPECT_EQ(*parsed.options.export_name, "");
  }
  EXPECT_FALSE(Parse({"disk"}).options.export_name.has_value());
}

TEST(Options, AValueMayHoldAnEqualsSignAndSpaces) {
  ExpectAll({{{"--description=a = b", "disk"}, "description(a = b) file(disk)"},
             {{"-e", "a=b", "disk"}, "name(a=b) file(disk)"}});
}

TEST(Options, AnAddressFamilyAsksToListen) {
  for (const char* option : {"-4", "-6"}) {
    EXPECT_NE(Parse({option, "disk"}).options.activation.own_socket, "");
  }
  for (const char* option : {"--print-uri", "--exit-with-parent", "-n"}) {
    EXPECT_EQ(Parse({option, "disk"}).options.activation.own_socket, "");
    EXPECT_FALSE(Parse({option, "disk"}).options.activation.foreground);
  }
}

// What is wrong is usage, exit status 64, and the message names the argument.
struct Wrong {
  std::vector<std::string> arguments;
  std::vector<std::string> message;  // parts that it must have
};

void ExpectAllWrong(const std::vector<Wrong>& rows) {
  for (const Wrong& row : rows) {
    const Parsed parsed = Parse(row.arguments);
    EXPECT_EQ(ExitStatusOf(parsed.status), ExitStatus::kUsage)
        << Join(row.arguments);
    for (const std::string& part : row.message) {
      EXPECT_NE(std::string(parsed.status.message()).find(part),
                std::string::npos)
          << Join(row.arguments) << ": no '" << part << "' in '"
          << parsed.status.message() << "'";
    }
  }
}

TEST(WrongUsage, AnUnknownOptionIsNamed) {
  ExpectAllWrong({
      {{"-x", "disk"}, {"\"-x\"", "unknown"}},
      {{"-rx", "disk"}, {"\"-x\"", "unknown"}},
      {{"-xr", "disk"}, {"\"-x\"", "unknown"}},
      {{"disk", "-x"}, {"\"-x\"", "unknown"}},
      {{"--nonsense", "disk"}, {"--nonsense", "unknown"}},
      {{"--nonsense=1", "disk"}, {"--nonsense", "unknown"}},
      {{"disk", "--nonsense"}, {"--nonsense", "unknown"}},
      {{"-?", "disk"}, {"\"-?\"", "unknown"}},
      // An option of the stand-alone mode.
      {{"-Z", "disk"}, {"\"-Z\"", "unknown"}},
  });
}

// getopt_long() has not moved on to the next argument when it meets a letter in
// the middle of a bundle, so that the argument before must not be blamed.
TEST(WrongUsage, AnUnknownLetterIsNamedWhateverStandsBeforeIt) {
  ExpectAllWrong({
      {{"--readonly", "-xr", "disk"}, {"\"-x\"", "unknown"}},
      {{"--log=null", "-xr", "disk"}, {"\"-x\"", "unknown"}},
      {{"--exportname", "name", "-sxr", "disk"}, {"\"-x\"", "unknown"}},
      {{"disk", "--check", "-xr"}, {"\"-x\"", "unknown"}},
  });
}

TEST(WrongUsage, AnAmbiguousAbbreviationIsRefused) {
  ExpectAllWrong({
      {{"--ver", "disk"}, {"--ver", "several"}},
      {{"--v", "disk"}, {"--v", "several"}},
  });
}

TEST(WrongUsage, AnUnknownOptionHasTheMostSimilarOneBesideIt) {
  ExpectAllWrong({
      {{"--read-olny", "disk"}, {"--readonly", "nbdinetd --help"}},
      {{"--prot=1", "disk"}, {"--port", "nbdinetd --help"}},
      {{"--tls-veryfy-peer"}, {"--tls-verify-peer", "nbdinetd --help"}},
      {{"-R", "disk"}, {"did you mean -r (--readonly)", "nbdinetd --help"}},
      {{"--tls-"}, {"several", "--tls-psk", "--tls-allow", "--help"}},
      {{"-x", "disk"}, {"nbdinetd --help"}},
      {{"-e"}, {"nbdinetd --help"}},
      {{"--verbose=", "disk"}, {"nbdinetd --help"}},
  });
  // Nothing is similar to it.
  EXPECT_EQ(Parse({"--nonsense"}).status.message(),
            "option \"--nonsense\" is unknown; see nbdinetd --help");
}

TEST(WrongUsage, WhatOnlyNbdkitHasIsNamedWithWhatServesInstead) {
  ExpectAllWrong({
      {{"--filter=cow", "disk"},
       {"--filter=cow is nbdkit's", "--cow gives each client"}},
      {{"--filter", "ip", "disk"}, {"--filter=ip is nbdkit's", "--allow"}},
      {{"--filter=blocksize-policy", "disk"},
       {"--filter=blocksize-policy is nbdkit's", "--block-size"}},
      {{"--filter=other", "disk"},
       {"--filter=other is nbdkit's; nbdinetd has"}},
      {{"disk", "--filter"}, {"--filter is nbdkit's; nbdinetd has no filters"}},
      {{"-o", "disk"}, {"-o is nbdkit's", "newstyle"}},
      {{"--oldstyle", "disk"}, {"--oldstyle is nbdkit's", "newstyle"}},
      {{"-D", "file.x=1", "disk"}, {"-D is nbdkit's", "-v"}},
      {{"--no-sr", "disk"}, {"--no-sr is nbdkit's"}},
      {{"--swap", "disk"}, {"--swap is nbdkit's", "MemorySwapMax=0"}},
      {{"--timeout=3", "disk"}, {"--timeout is nbdkit's", "--handshake-timeo"}},
      {{"memory", "1G"}, {"\"memory\" is a plugin of nbdkit's", "--directory"}},
      {{"file", "disk", "cache=none"}, {"\"cache=none\"", "page cache"}},
      {{"file", "dir=/srv"}, {"\"dir=/srv\"", "--directory"}},
  });
}

TEST(WrongUsage, OneFileIsEnough) {
  ExpectAllWrong({
      {{"a", "b"}, {"2 were given: \"a\", \"b\";"}},
      {{"a", "b", "c"}, {"3 were given: \"a\", \"b\", ...;"}},
      {{"file="}, {"file= is empty"}},
      {{"file", "file="}, {"file= is empty"}},
  });
}

TEST(WrongUsage, AnOptionThatCantBeKeptIsRefused) {
  ExpectAllWrong({
      {{"-4", "-U", "x", "disk"}, {"--ipv4-only", "--unix"}},
      {{"-6", "--vsock", "disk"}, {"--ipv6-only", "--vsock"}},
      {{"-s", "-4", "disk"}, {"--single", "--ipv4-only"}},
      {{"-s", "--print-uri", "disk"}, {"--single", "--print-uri"}},
      {{"-t", "many", "disk"}, {"--threads", "\"many\""}},
      {{"--check=yaml", "disk"}, {"--check=\"yaml\"", "text or json"}},
      {{"--log=nbd.log", "disk"}, {"\"nbd.log\"", "absolute path"}},
  });
}

TEST(WrongUsage, AnAgreementIsOneThatNbdHas) {
  for (const char* word :
       {"", "compact", "STRUCTURED", "simple ", ",", ",base:allocation"}) {
    ExpectAllWrong(
        {{{std::string("--negotiated=") + word, "disk"},
          {"--negotiated=\"", "use simple, structured or extended"}}});
  }
  for (const char* context : {"", "base:", "qemu:dirty-bitmap:b",
                              "base:allocation,base:allocation"}) {
    ExpectAllWrong(
        {{{std::string("--negotiated=extended,") + context, "disk"},
          {"--negotiated=\"", "the only metadata context is base:alloc"}}});
  }
  ExpectAllWrong({
      {{"--negotiated=simple,base:allocation", "disk"},
       {"--negotiated", "needs structured or extended replies"}},
  });
}

TEST(WrongUsage, WhatHasBeenNegotiatedGoesWithOnePlainConnection) {
  const std::string negotiated = "--negotiated=simple";
  ExpectAllWrong({
      {{negotiated, "--tls=require", "disk"}, {"--negotiated", "with TLS"}},
      {{negotiated, "--tls-psk=keys", "disk"}, {"--negotiated", "with TLS"}},
      {{negotiated, "--directory=/srv"},
       {"--negotiated", "--directory", "the one FILE"}},
      {{negotiated, "-p", "1", "disk"}, {"--negotiated", "--port"}},
      {{negotiated, "--run=true", "disk"}, {"--negotiated", "--run"}},
      {{negotiated, "-f", "disk"}, {"--negotiated", "--foreground"}},
  });
  EXPECT_TRUE(Parse({negotiated, "--tls=off", "disk"}).status.ok());
}

TEST(WrongUsage, BlockSizesKeepTheRulesOfTheSpecification) {
  const struct {
    const char* sizes;
    const char* complaint;
  } rows[] = {
      {"4K", "MIN:PREFERRED:MAX"},
      {"4K:64K", "MIN:PREFERRED:MAX"},
      {"4K:64K:1M:1M", "MIN:PREFERRED:MAX"},
      {"", "MIN:PREFERRED:MAX"},
      {"::", "is no size"},
      {"4k:64K:1M", "\"4k\" is no size"},
      {"4K:64K:65M", "\"65M\" is no size"},
      {"4K:64K:64G", "\"64G\" is no size"},
      {"0:64K:1M", "MIN must be a power of 2"},
      {"513:64K:1M", "MIN must be a power of 2"},
      {"128K:128K:1M", "of up to 64K"},
      {"1:256:1M", "PREFERRED must be"},
      {"1:513:1M", "PREFERRED must be"},
      {"4K:2K:1M", "PREFERRED must be"},
      {"1:1K:512", "MAX must be"},
      {"4K:4K:6K", "MAX must be a multiple of MIN"},
  };
  for (const auto& row : rows) {
    ExpectAllWrong({{{std::string("--block-size=") + row.sizes, "disk"},
                     {"--block-size", row.complaint}}});
  }
}

TEST(WrongUsage, AMissingArgumentIsSaidToBeMissing) {
  ExpectAllWrong({
      {{"-e"}, {"\"-e\"", "needs an argument"}},
      {{"-re"}, {"\"-e\"", "needs an argument"}},
      {{"--log=null", "-re"}, {"\"-e\"", "needs an argument"}},
      {{"disk", "-e"}, {"\"-e\"", "needs an argument"}},
      {{"--exportname"}, {"--exportname", "needs an argument"}},
      {{"--description"}, {"--description", "needs an argument"}},
      {{"disk", "--log"}, {"--log", "needs an argument"}},
  });
}

TEST(WrongUsage, AnArgumentTooManyIsSaidToBeTooMany) {
  ExpectAllWrong({
      {{"--readonly=yes", "disk"}, {"--readonly", "takes no argument"}},
      {{"--verbose=", "disk"}, {"--verbose", "takes no argument"}},
      {{"--help=me"}, {"--help", "takes no argument"}},
  });
}

// As from a shell's variable that isn't set: not to be taken for no such
// option, and so for TCP on all addresses, or for the user who started it.
TEST(WrongUsage, AnEmptyArgumentIsNotTakenForNoArgument) {
  for (const char* option : {"--unix", "--ipaddr", "--run", "--pidfile",
                             "--user", "--group", "--allow", "--deny"}) {
    ExpectAllWrong({{{std::string(option) + "=", "disk"}, {option}}});
  }
  ExpectAllWrong(
      {{{"-U", "", "disk"}, {"--unix is empty"}},
       {{"--tls=require", "--tls-allow=", "disk"}, {"--tls-allow is empty"}}});
}

TEST(WrongUsage, ADirectoryGoesWithNoFileAndNoDescription) {
  ExpectAllWrong({
      {{"--directory=/srv", "disk"}, {"FILE", "--directory"}},
      {{"disk", "--directory=/srv"}, {"FILE", "--directory"}},
      {{"--directory=/srv", "--description=x"},
       {"--description", "--directory"}},
      {{"--directory="}, {"--directory"}},
  });
}

TEST(WrongUsage, AnUnknownLogDestinationIsNamedBesideThoseThatExist) {
  for (const char* name : {"file", "", "STDERR", "stderr ", "journald"}) {
    ExpectAllWrong({{{std::string("--log=") + name, "disk"},
                     {"--log=\"" + std::string(name) + "\"", "stderr", "syslog",
                      "journal", "null"}}});
  }
}

TEST(WrongUsage, SeveralFilesAreCounted) {
  ExpectAllWrong({
      {{"a", "b"}, {"2"}},
      {{"a", "-r", "b", "c"}, {"3"}},
      {{"--", "a", "b"}, {"2"}},
  });
}

TEST(WrongUsage, StringsThatNbdCannotCarryAreRefused) {
  const std::string long_text(4097, 'n');
  ExpectAllWrong({
      {{"-e", long_text, "disk"}, {"--exportname", "4096"}},
      {{"-e", "\xff", "disk"}, {"--exportname", "UTF-8"}},
      {{"--description=" + long_text, "disk"}, {"--description", "4096"}},
      {{"--description=\xc3", "disk"}, {"--description", "UTF-8"}},
  });
  const std::string longest(4096, 'n');
  EXPECT_TRUE(
      Parse({"-e", longest, "--description", longest, "disk"}).status.ok());
}

// Where an error may be told depends on --log, --single and -v, wherever they
// stand.
TEST(WrongUsage, WhatCouldBeUnderstoodIsThereAllTheSame) {
  const Parsed parsed =
      Parse({"--nonsense", "-s", "--log=null", "-x", "disk", "-v"});
  EXPECT_FALSE(parsed.status.ok());
  EXPECT_EQ(Words(parsed.options), "single verbose log(null) file(disk)");
}

TEST(WrongUsage, TheFirstErrorIsTheOneThatIsTold) {
  const Parsed parsed = Parse({"--nonsense", "-x", "--log=file", "a", "b"});
  EXPECT_NE(parsed.status.message().find("--nonsense"), std::string::npos)
      << parsed.status;
}

TEST(WrongUsage, AnOptionCannotForgeALogLine) {
  const Parsed parsed = Parse({"--non\nsense"});
  EXPECT_EQ(parsed.status.message().find('\n'), std::string::npos)
      << parsed.status;
  const Parsed log = Parse({"--log=a\nb"});
  EXPECT_EQ(log.status.message().find('\n'), std::string::npos) << log.status;
}

TEST(WrongUsage, NothingIsPrinted) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--nonsense"},
        {"-x"},
        {"-e"},
        {"--ver"},
        {"--help=x"},
        {"--help"},
        {"-V"}}) {
    Parse(arguments);
  }
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Help, NamesEveryOption) {
  const std::string help(HelpText());
  for (const char* option : {"-r, --readonly",
                             "-e, --exportname=NAME",
                             "--description=TEXT",
                             "-s, --single",
                             "-f, --foreground",
                             "--log=",
                             "-v, --verbose",
                             "--check",
                             "-V, --version",
                             "--help",
                             "-p, --port=PORT",
                             "-i, --ipaddr=IP",
                             "-U, --unix=PATH",
                             "--vsock",
                             "--run=COMMAND",
                             "-P, --pidfile=PATH",
                             "-u, --user=USER",
                             "-g, --group=GROUP",
                             "--max-connections=N",
                             "--exit-idle=TIME",
                             "--handshake-timeout=TIME",
                             "--stall-timeout=TIME",
                             "--idle-timeout=TIME",
                             "--tls=off|on|require",
                             "--tls-certificates=DIR",
                             "--tls-psk=FILE",
                             "--tls-verify-peer",
                             "--tls-allow=PATTERN"}) {
    EXPECT_NE(help.find(option), std::string::npos) << option;
  }
  EXPECT_EQ(help.back(), '\n');
}

TEST(Tls, IsOffUnlessItIsAskedFor) {
  EXPECT_EQ(Parse({"f"}).options.tls.mode, TlsMode::kOff);
  EXPECT_EQ(Parse({"--tls=on", "f"}).options.tls.mode, TlsMode::kOn);
  EXPECT_EQ(Parse({"--tls=require", "f"}).options.tls.mode, TlsMode::kRequire);
  EXPECT_EQ(Parse({"--tls-certificates=d", "f"}).options.tls.mode,
            TlsMode::kOn);
  EXPECT_EQ(Parse({"--tls-psk=k", "f"}).options.tls.mode, TlsMode::kOn);
  EXPECT_EQ(Parse({"--tls-verify-peer", "f"}).options.tls.mode, TlsMode::kOn);
  // Whatever the order.
  EXPECT_EQ(Parse({"--tls=off", "--tls-psk=k", "f"}).options.tls.mode,
            TlsMode::kOff);
  EXPECT_EQ(Parse({"--tls-psk=k", "--tls=off", "f"}).options.tls.mode,
            TlsMode::kOff);
}

TEST(Tls, RefusesWhatMakesNoSense) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--tls=yes", "f"},
        {"--tls=", "f"},
        {"--tls-certificates=", "f"},
        {"--tls-psk=", "f"},
        {"--tls-allow=*", "f"},
        {"--tls=on", "--tls-allow=*", "f"},
        {"--tls-verify-peer=yes", "f"}}) {
    EXPECT_EQ(ExitStatusOf(Parse(arguments).status), ExitStatus::kUsage)
        << arguments[0];
  }
  const Parsed parsed =
      Parse({"--tls=require", "--tls-allow=a", "--tls-allow=b", "f"});
  EXPECT_TRUE(parsed.status.ok());
  EXPECT_EQ(parsed.options.tls.allow, (std::vector<std::string>{"a", "b"}));
}

TEST(Help, FitsATerminal) {
  std::istringstream help{std::string(HelpText())};
  for (std::string line; std::getline(help, line);)
    EXPECT_LE(line.size(), 80u) << line;
}

}  // namespace
}  // namespace nbdinetd
