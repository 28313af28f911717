#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "support/private_mount.h"

namespace nbdinetd {
namespace {

using Messages = std::vector<std::string>;

// Everything that a descriptor has for us, one element for each write or
// datagram.
Messages ReceiveAll(int fd) {
  Messages messages;
  std::string buffer(1 << 16, '\0');
  ssize_t n;
  while ((n = read(fd, buffer.data(), buffer.size())) > 0) {
    messages.push_back(buffer.substr(0, static_cast<size_t>(n)));
  }
  return messages;
}

// Standard error is a pipe while it lives. The pipe keeps writes apart.
class CapturedStandardError {
 public:
  CapturedStandardError() : before_(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0) abort();
    output_.Reset(fds[0]);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
  }
  ~CapturedStandardError() { dup2(before_.get(), STDERR_FILENO); }

  Messages Take() { return ReceiveAll(output_.get()); }

 private:
  UniqueFd before_;
  UniqueFd output_;
};

// What systemd would set if the journal read our standard error.
std::string JournalStream(ino_t inode_error = 0, dev_t device_error = 0) {
  struct stat st;
  fstat(STDERR_FILENO, &st);
  return std::to_string(st.st_dev + device_error) + ":" +
         std::to_string(st.st_ino + inode_error);
}

Log::Config Config(std::optional<LogDestination> destination,
                   bool verbose = false, bool standard_error_is_peer = false) {
  Log::Config config;
  config.destination = destination;
  config.verbose = verbose;
  config.standard_error_is_peer = standard_error_is_peer;
  return config;
}

// -- Standard error

class StandardErrorTest : public testing::Test {
 protected:
  void SetUp() override { unsetenv("JOURNAL_STREAM"); }
  void TearDown() override { unsetenv("JOURNAL_STREAM"); }
  CapturedStandardError captured_;
};

TEST_F(StandardErrorTest, GetsPlainLinesOneWriteEach) {
  for (const std::optional<LogDestination> destination :
       {std::optional<LogDestination>(),
        std::optional<LogDestination>(LogDestination::kStandardError)}) {
    const Log log(Config(destination));
    log.Write(Priority::kInfo, "serving export \"disk\"");
    log.Write(Priority::kWarning, "100% of %s");
    log.Error("failed");
    EXPECT_EQ(captured_.Take(),
              (Messages{"nbdinetd: serving export \"disk\"\n",
                        "nbdinetd: 100% of %s\n", "nbdinetd: failed\n"}));
  }
}

// A pipe that has any room at all has room for PIPE_BUF bytes; for more, a
// write could wait for ever. A client's export name, escaped, may be longer.
TEST_F(StandardErrorTest, GetsNoLineThatAPipeCouldTakeInPartsOnly) {
  const std::string name(4 * PIPE_BUF, 'n');
  const Log log(Config(LogDestination::kStandardError));
  log.Error(name);
  const size_t rest = PIPE_BUF - std::strlen("nbdinetd: \n");
  log.Error(name.substr(0, rest));
  EXPECT_EQ(captured_.Take(),
            (Messages{"nbdinetd: " + name.substr(0, rest - 3) + "...\n",
                      "nbdinetd: " + name.substr(0, rest) + "\n"}));
}

TEST_F(StandardErrorTest, GetsNoFields) {
  Log log(Config(std::nullopt));
  log.SetField("NBD_PEER", "pipe");
  const LogField extra[] = {{"NBD_REQUESTS", "1"}};
  log.Write(Priority::kInfo, "ended", extra);
  EXPECT_EQ(captured_.Take(), (Messages{"nbdinetd: ended\n"}));
}

TEST_F(StandardErrorTest, GetsPriorityPrefixesWhenTheJournalReadsIt) {
  setenv("JOURNAL_STREAM", JournalStream().c_str(), 1);
  const Log log(Config(LogDestination::kStandardError, /*verbose=*/true));
  log.Write(Priority::kError, "a");
  log.Write(Priority::kWarning, "b");
  log.Write(Priority::kNotice, "c");
  log.Write(Priority::kInfo, "d");
  log.Debug("e");
  EXPECT_EQ(captured_.Take(),
            (Messages{"<3>a\n", "<4>b\n", "<5>c\n", "<6>d\n", "<7>e\n"}));
}

// The variable is inherited by processes whose standard error is another one.
TEST_F(StandardErrorTest, GetsNoPrefixesWhenTheJournalReadsAnother) {
  for (const std::string& value :
       {JournalStream(1), JournalStream(0, 1), std::string(""),
        std::string(":"), std::string("1"), std::string("a:b"),
        JournalStream() + "x", ":" + JournalStream()}) {
    setenv("JOURNAL_STREAM", value.c_str(), 1);
    const Log log(Config(LogDestination::kStandardError));
    log.Write(Priority::kInfo, "x");
    EXPECT_EQ(captured_.Take(), (Messages{"nbdinetd: x\n"})) << value;
  }
}

TEST_F(StandardErrorTest, GetsDebugMessagesOnlyWhenVerbose) {
  const Log quiet(Config(std::nullopt));
  quiet.Debug("x");
  EXPECT_FALSE(quiet.verbose());
  EXPECT_EQ(captured_.Take(), Messages{});
  const Log verbose(Config(std::nullopt, /*verbose=*/true));
  verbose.Debug("x");
  EXPECT_TRUE(verbose.verbose());
  EXPECT_EQ(captured_.Take(), (Messages{"nbdinetd: x\n"}));
}

TEST_F(StandardErrorTest, GetsNothingButDebugMessagesWithLogNull) {
  const Log log(Config(LogDestination::kNull, /*verbose=*/true));
  log.Error("x");
  log.Write(Priority::kInfo, "x");
  EXPECT_EQ(captured_.Take(), Messages{});
  log.Debug("y");
  EXPECT_EQ(captured_.Take(), (Messages{"nbdinetd: y\n"}));
}

TEST_F(StandardErrorTest, MayBeClosedWithoutHarm) {
  const UniqueFd before(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
  close(STDERR_FILENO);
  const Log log(Config(LogDestination::kStandardError));
  log.Error("lost");
  dup2(before.get(), STDERR_FILENO);
  EXPECT_EQ(captured_.Take(), Messages{});
}

// -- Journal and syslog

// A datagram socket where a logging daemon would listen.
class Listener {
 public:
  explicit Listener(const std::string& path)
      : path_(path),
        fd_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    if (bind(fd_.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) != 0)
      abort();
  }
  ~Listener() { unlink(path_.c_str()); }
  Messages Take() { return ReceiveAll(fd_.get()); }

 private:
  std::string path_;
  UniqueFd fd_;
};

// One message of the journal's native protocol: NAME=VALUE lines, or, where the
// value has a newline, NAME, its length in 64 bits, the lowest byte first, and
// the value.
std::map<std::string, std::string> ParseJournal(const std::string& message) {
  std::map<std::string, std::string> fields;
  for (size_t at = 0; at < message.size();) {
    const size_t end = message.find('\n', at);
    if (end == std::string::npos) {
      ADD_FAILURE() << "a field without an end";
      break;
    }
    const std::string line = message.substr(at, end - at);
    at = end + 1;
    std::string name, value;
    if (const size_t equals = line.find('='); equals != std::string::npos) {
      name = line.substr(0, equals);
      value = line.substr(equals + 1);
    } else {
      uint64_t size = 0;
      for (size_t i = 0; i < 8; ++i) {
        size |= uint64_t{static_cast<unsigned char>(message.at(at + i))}
                << (8 * i);
      }
      name = line;
      value = message.substr(at + 8, size);
      at += 8 + size + 1;
    }
    EXPECT_EQ(fields.count(name), 0u) << name << " twice";
    fields[name] = value;
  }
  return fields;
}

// /run and /dev are the test's own, so that nothing reaches the machine's real
// logs.
class DaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    NBDTEST_REQUIRE(nbdtest::HavePrivateMounts(), "mounting needs root");
    ASSERT_EQ(mount("none", "/run", "tmpfs", 0, ""), 0);
    run_mounted_ = true;
    ASSERT_EQ(mkdir("/run/systemd", 0755), 0);
    ASSERT_EQ(mkdir("/run/systemd/journal", 0755), 0);
    ASSERT_EQ(mount("none", "/dev", "tmpfs", 0, ""), 0);
    dev_mounted_ = true;
    unsetenv("JOURNAL_STREAM");
    captured_.emplace();
  }
  void TearDown() override {
    captured_.reset();
    journal_.reset();
    syslog_.reset();
    unsetenv("JOURNAL_STREAM");
    if (dev_mounted_) umount2("/dev", MNT_DETACH);
    if (run_mounted_) umount2("/run", MNT_DETACH);
  }

  // A log waits at its end until the journal has received all, which nobody
  // does here: the journal ends first.
  void SetJournal(bool runs) {
    journal_.reset();
    if (runs)
      journal_ = std::make_unique<Listener>("/run/systemd/journal/socket");
  }
  void StartSyslog() { syslog_ = std::make_unique<Listener>("/dev/log"); }
  void JournalReadsStandardError() {
    setenv("JOURNAL_STREAM", JournalStream().c_str(), 1);
  }

  // What came where since the last time, in words: "journal(a) syslog(b)
  // stderr(c)".
  std::string Where() {
    std::string words;
    const auto add = [&](const std::string& place, const std::string& message) {
      words += (words.empty() ? "" : " ") + place + "(" + message + ")";
    };
    if (journal_) {
      for (const std::string& message : journal_->Take()) {
        add("journal", ParseJournal(message)["MESSAGE"]);
      }
    }
    if (syslog_) {
      for (const std::string& message : syslog_->Take()) {
        add("syslog", message.substr(message.find("]: ") + 3));
      }
    }
    for (const std::string& message : captured_->Take()) {
      add("stderr", message.substr(0, message.size() - 1));
    }
    return words;
  }
  Listener& journal() { return *journal_; }
  Listener& syslog() { return *syslog_; }

 private:
  bool run_mounted_ = false, dev_mounted_ = false;
  std::optional<CapturedStandardError> captured_;
  // Pointers, since g++ 14 takes what is in an optional for uninitialized.
  std::unique_ptr<Listener> journal_, syslog_;
};

TEST_F(DaemonTest, TheJournalGetsPriorityAndFields) {
  SetJournal(true);
  Log log(Config(LogDestination::kJournal));
  log.SetField("NBD_PEER", "127.0.0.1:40000");
  log.SetField("NBD_EXPORT", "disk");
  const LogField extra[] = {{"NBD_REQUESTS", "12"}, {"NBD_ERRORS", "0"}};
  log.Write(Priority::kWarning, "ended: because = 100% %s", extra);
  log.Error("failed");
  const Messages messages = journal().Take();
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(ParseJournal(messages[0]),
            (std::map<std::string, std::string>{
                {"MESSAGE", "ended: because = 100% %s"},
                {"PRIORITY", "4"},
                {"SYSLOG_IDENTIFIER", "nbdinetd"},
                {"NBD_PEER", "127.0.0.1:40000"},
                {"NBD_EXPORT", "disk"},
                {"NBD_REQUESTS", "12"},
                {"NBD_ERRORS", "0"},
            }));
  // Extra fields are one message's.
  EXPECT_EQ(ParseJournal(messages[1]), (std::map<std::string, std::string>{
                                           {"MESSAGE", "failed"},
                                           {"PRIORITY", "3"},
                                           {"SYSLOG_IDENTIFIER", "nbdinetd"},
                                           {"NBD_PEER", "127.0.0.1:40000"},
                                           {"NBD_EXPORT", "disk"},
                                       }));
  SetJournal(false);
}

// A client chose the export's name.
TEST_F(DaemonTest, AFieldCannotForgeAnother) {
  SetJournal(true);
  Log log(Config(LogDestination::kJournal));
  log.SetField("NBD_EXPORT", "disk\nPRIORITY=0\nMESSAGE=forged");
  log.Write(Priority::kInfo, "two\nlines");
  const Messages messages = journal().Take();
  ASSERT_EQ(messages.size(), 1u);
  std::map<std::string, std::string> fields = ParseJournal(messages[0]);
  EXPECT_EQ(fields.size(), 4u);
  EXPECT_EQ(fields["NBD_EXPORT"], "disk\nPRIORITY=0\nMESSAGE=forged");
  EXPECT_EQ(fields["MESSAGE"], "two\nlines");
  EXPECT_EQ(fields["PRIORITY"], "6");
  SetJournal(false);
}

TEST_F(DaemonTest, SyslogGetsOneLineEachWithFacilityAndPriority) {
  StartSyslog();
  const Log log(Config(LogDestination::kSyslog));
  log.Write(Priority::kInfo, "100% of %s");
  log.Error("failed");
  const Messages messages = syslog().Take();
  ASSERT_EQ(messages.size(), 2u);
  const std::string tag = "nbdinetd[" + std::to_string(getpid()) + "]: ";
  // Facility daemon, 3, times eight, plus the priority.
  EXPECT_EQ(messages[0].substr(0, 4), "<30>");
  EXPECT_NE(messages[0].find(tag + "100% of %s"), std::string::npos)
      << messages[0];
  EXPECT_EQ(messages[1].substr(0, 4), "<27>");
  EXPECT_NE(messages[1].find(tag + "failed"), std::string::npos) << messages[1];
}

// Where a message goes: the whole table of destination, standard error and
// daemons.
struct Place {
  const char* what;
  std::optional<LogDestination> destination;
  bool journal_runs;
  bool journal_reads_standard_error;
  bool standard_error_is_peer;
  const char* message;  // where a message "m" goes
  const char* debug;    // and a debug message "d" of a verbose log
};

const Place kPlaces[] = {
    // Without --log it depends on standard error.
    {"a terminal or file", std::nullopt, true, false, false,
     "stderr(nbdinetd: m)", "stderr(nbdinetd: d)"},
    {"the journal's stream is upgraded", std::nullopt, true, true, false,
     "journal(m)", "stderr(<7>d)"},
    {"unless the journal can't be reached", std::nullopt, false, true, false,
     "stderr(<6>m)", "stderr(<7>d)"},
    {"the client's socket", std::nullopt, true, false, true, "journal(m)",
     "journal(d)"},
    {"the client's socket, no journal", std::nullopt, false, false, true,
     "syslog(m)", ""},
    {"the client's socket, a stale variable", std::nullopt, false, true, true,
     "syslog(m)", ""},
    // --log
    {"--log=stderr", LogDestination::kStandardError, true, false, false,
     "stderr(nbdinetd: m)", "stderr(nbdinetd: d)"},
    {"--log=stderr, the journal's stream", LogDestination::kStandardError, true,
     true, false, "stderr(<6>m)", "stderr(<7>d)"},
    {"--log=stderr, the client's socket", LogDestination::kStandardError, true,
     false, true, "journal(m)", "journal(d)"},
    {"--log=stderr, the client's socket, no journal",
     LogDestination::kStandardError, false, false, true, "syslog(m)", ""},
    {"--log=syslog", LogDestination::kSyslog, true, false, false, "syslog(m)",
     "stderr(nbdinetd: d)"},
    {"--log=syslog, the client's socket", LogDestination::kSyslog, true, false,
     true, "syslog(m)", "journal(d)"},
    {"--log=journal", LogDestination::kJournal, true, false, false,
     "journal(m)", "stderr(nbdinetd: d)"},
    {"--log=journal, no journal", LogDestination::kJournal, false, false, false,
     "stderr(nbdinetd: m)", "stderr(nbdinetd: d)"},
    {"--log=journal, no journal, the client's socket", LogDestination::kJournal,
     false, false, true, "syslog(m)", ""},
    {"--log=null", LogDestination::kNull, true, false, false, "",
     "stderr(nbdinetd: d)"},
    {"--log=null, the client's socket", LogDestination::kNull, false, false,
     true, "", ""},
};

TEST_F(DaemonTest, EveryMessageGoesWhereTheManualSays) {
  StartSyslog();
  for (const Place& place : kPlaces) {
    unsetenv("JOURNAL_STREAM");
    if (place.journal_reads_standard_error) JournalReadsStandardError();
    SetJournal(place.journal_runs);
    const Log log(Config(place.destination, /*verbose=*/true,
                         place.standard_error_is_peer));
    log.Write(Priority::kInfo, "m");
    EXPECT_EQ(Where(), place.message) << place.what;
    log.Debug("d");
    EXPECT_EQ(Where(), place.debug) << place.what;
    SetJournal(false);
  }
}

// "No byte but NBD ever goes to the client, in any mode".
TEST_F(DaemonTest, NothingIsEverWrittenToTheClient) {
  StartSyslog();
  for (const bool journal_runs : {false, true}) {
    for (const bool stream : {false, true}) {
      unsetenv("JOURNAL_STREAM");
      if (stream) JournalReadsStandardError();
      for (const Place& place : kPlaces) {
        SetJournal(journal_runs);
        const Log log(
            Config(place.destination, /*verbose=*/true, /*peer=*/true));
        for (const Priority priority :
             {Priority::kError, Priority::kWarning, Priority::kNotice,
              Priority::kInfo, Priority::kDebug}) {
          log.Write(priority, "m");
        }
        log.Error("m");
        log.Debug("m");
        EXPECT_EQ(Where().find("stderr"), std::string::npos);
        SetJournal(false);
      }
    }
  }
}

}  // namespace
}  // namespace nbdinetd
