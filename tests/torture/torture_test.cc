// Random requests over four connections at once, many under way on each, held
// against a model of what every byte may be (see torture_model.h): over each
// kind of transport, storage and start, with page cache dropped under the
// server, clients that are slow, leave at once or see the server shut down.
//
// NBDINETD_TORTURE_SECONDS says how long all of it takes, about (25 by
// default); NBDINETD_TORTURE_SEED repeats the requests of another run, though
// not how they met in time. 'make torture' runs ten minutes of it.
//
// NBDINETD_TORTURE_EXPORT names a file or block device that is to be served
// instead, by tests/torture/file_systems_test.py for instance; see GivenDisk.
//
// NBDINETD_TORTURE_SERVERS names servers that run already and serve it, on one
// or on several hosts: "ADDRESS:PORT ...", IPv4. The connections take turns.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/session.h"
#include "support/torture_client.h"
#include "support/torture_disk.h"
#include "support/torture_model.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol.

constexpr size_t kConnections = 4;

// Of what NBDINETD_TORTURE_EXPORT names, however long they take: one with a new
// file, and one more with that.
constexpr size_t kMinGivenRounds = 2;

enum class Start { kInetd, kActivated, kListener };

// What the server is run with besides: a switch between ways of doing the same
// gets a row for each.
struct Engine {
  std::string name;
  std::vector<std::string> options;
  std::vector<std::string> environment;
};

const std::vector<Engine>& Engines() {
  static const std::vector<Engine> engines = {{"", {}, {}}};
  return engines;
}

struct Scenario {
  std::string name;
  Start start = Start::kActivated;
  Transport transport = Transport::kUnix;
  Storage storage = Storage::kFile;
  // nullopt: another one in each round.
  std::optional<Style> style = Style::kStructured;
  std::optional<int> socket_buffer_bytes = std::nullopt;
  bool slow = false;
  // The environment of tests/support/faulty_calls.c.
  std::vector<std::string> faults = {};
  // Those faults can't be hidden from the client.
  bool faulty = false;
  // More options of the server.
  std::vector<std::string> options = {};
};

// What NBDINETD_TORTURE_SERVERS names.
std::vector<sockaddr_in> GivenServers() {
  const char* text = std::getenv("NBDINETD_TORTURE_SERVERS");
  std::istringstream words(text == nullptr ? "" : text);
  std::vector<sockaddr_in> servers;
  for (std::string word; words >> word;) {
    const size_t colon = word.find(':');
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    if (colon == std::string::npos ||
        inet_pton(AF_INET, word.substr(0, colon).c_str(), &address.sin_addr) !=
            1) {
      throw std::runtime_error("NBDINETD_TORTURE_SERVERS: " + word);
    }
    address.sin_port =
        htons(static_cast<uint16_t>(std::stoul(word.substr(colon + 1))));
    servers.push_back(address);
  }
  return servers;
}

// Each stack of layers with each use of the page cache.
void AddStacks(std::vector<Scenario>& scenarios) {
  using enum Storage;
  constexpr std::pair<const char*, Storage> kStacks[] = {
      {"File", kFile},
      {"Tmpfs", kTmpfs},
      {"LoopDevice", kLoopDevice},
      {"LargeSectors", kLoopDevice4K},
      {"Part", kPart},
      {"Partition", kPartition},
      {"Copy", kCopy},
      {"CopyInMemory", kCopyInMemory},
      {"CopiedPart", kCopiedPart},
      {"CopiedPartInMemory", kCopiedPartInMemory},
      {"CopiedPartition", kCopiedPartition},
      {"Kept", kKept},
      {"KeptPart", kKeptPart},
      {"KeptPartition", kKeptPartition},
  };
  constexpr std::pair<const char*, const char*> kModes[] = {
      {"Writeback", "writeback"},
      {"Writethrough", "writethrough"},
      {"Drop", "drop"},
      {"None", "none"},
      {"Directsync", "directsync"},
  };
  for (const auto& [stack, storage] : kStacks) {
    for (const auto& [mode_name, mode] : kModes) {
      const std::string option = mode;
      // Not every kernel has O_DIRECT there.
      if (storage == kTmpfs && (option == "none" || option == "directsync"))
        continue;
      // Copies are kept for an address.
      const bool tcp = storage == kKept || storage == kKeptPart ||
                       storage == kKeptPartition || scenarios.size() % 2 == 0;
      Scenario scenario{std::string(mode_name) + stack, Start::kActivated,
                        tcp ? Transport::kTcp : Transport::kUnix, storage};
      scenario.style = std::nullopt;
      scenario.options = {"--cache=" + option};
      scenarios.push_back(std::move(scenario));
    }
  }
}

// On what NBDINETD_TORTURE_EXPORT names.
std::vector<Scenario> GivenScenarios() {
  using enum Start;
  using enum Transport;
  using enum Style;
  if (!GivenServers().empty()) {
    return {{"GivenServersStructured"},
            {"GivenServersSimple", kInetd, kTcp, Storage::kFile, kSimple},
            {"GivenServersExtended", kInetd, kTcp, Storage::kFile, kExtended}};
  }
  return {{"GivenUnixStructured"},
          {"GivenTcpStructured", kInetd, kTcp},
          {"GivenTcpSimple", kActivated, kTcp, Storage::kFile, kSimple}};
}

std::vector<Scenario> Scenarios() {
  using enum Start;
  using enum Transport;
  using enum Style;
  using enum Storage;
  constexpr int kSmallBuffer = 4096;
  const std::vector<std::string> interrupted = {"NBDINETD_SHORTEN=3",
                                                "NBDINETD_INTERRUPT=5"};
  const std::vector<std::string> failing_storage = {
      "NBDINETD_STORAGE_ERRORS=100"};
  const std::vector<std::string> failing_connection = {
      "NBDINETD_CONNECTION_ERRORS=2000"};
  std::vector<Scenario> scenarios = {
      {"UnixStructured"},
      {"UnixSimple", kInetd, kUnix, kFile, kSimple},
      {"TcpStructured", kInetd, kTcp},
      {"TcpSimple", kActivated, kTcp, kFile, kSimple},
      {"UnixExtended", kActivated, kUnix, kFile, kExtended},
      {"TcpSmallBufferExtended", kInetd, kTcp, kFile, kExtended, kSmallBuffer},
      {"PipesStructured", kInetd, kPipes},
      {"PipesSimple", kInetd, kPipes, kFile, kSimple},
      {"UnixListenerStructured", kListener, kUnix},
      {"TcpListenerSimple", kListener, kTcp, kFile, kSimple},
      {"UnixSmallBufferStructured", kActivated, kUnix, kFile, kStructured,
       kSmallBuffer},
      {"UnixSmallBufferSimple", kInetd, kUnix, kFile, kSimple, kSmallBuffer},
      {"TcpSmallBufferStructured", kActivated, kTcp, kFile, kStructured,
       kSmallBuffer},
      {"TcpSmallBufferSimple", kActivated, kTcp, kFile, kSimple, kSmallBuffer},
      {"UnixSlowStructured", kActivated, kUnix, kFile, kStructured,
       std::nullopt, true},
      {"TcpSlowSimple", kActivated, kTcp, kFile, kSimple, std::nullopt, true},
      {"TcpSlowSmallBufferStructured", kInetd, kTcp, kFile, kStructured,
       kSmallBuffer, true},
      {"UnixSlowExtended", kInetd, kUnix, kFile, kExtended, std::nullopt, true},
      {"PartitionListenerSimple", kListener, kUnix, kPartition, kSimple},
      {"DropTcpSimple",
       kInetd,
       kTcp,
       kFile,
       kSimple,
       std::nullopt,
       false,
       {},
       false,
       {"--cache=drop"}},
      {"InterruptedNoneStructured",
       kActivated,
       kUnix,
       kFile,
       kStructured,
       std::nullopt,
       false,
       interrupted,
       false,
       {"--cache=none"}},
      {"InterruptedDropExtended",
       kActivated,
       kUnix,
       kFile,
       kExtended,
       std::nullopt,
       false,
       interrupted,
       false,
       {"--cache=drop"}},
      {"FailingStorageDropStructured",
       kActivated,
       kUnix,
       kFile,
       kStructured,
       std::nullopt,
       false,
       failing_storage,
       true,
       {"--cache=drop"}},
      {"FailingStorageNoneSimple",
       kActivated,
       kUnix,
       kFile,
       kSimple,
       std::nullopt,
       false,
       failing_storage,
       true,
       {"--cache=none"}},
      {"InterruptedKeptTcpStructured", kActivated, kTcp, kKept, kStructured,
       std::nullopt, false, interrupted},
      {"FailingStorageKeptTcpStructured", kActivated, kTcp, kKept, kStructured,
       std::nullopt, false, failing_storage, true},
      {"CopyListenerStructured", kListener, kUnix, kCopyInMemory},
      {"InterruptedCopyStructured", kActivated, kUnix, kCopy, kStructured,
       std::nullopt, false, interrupted},
      {"FailingStorageCopyStructured", kActivated, kUnix, kCopy, kStructured,
       std::nullopt, false, failing_storage, true},
      {"InterruptedUnixStructured", kActivated, kUnix, kFile, kStructured,
       std::nullopt, false, interrupted},
      {"InterruptedTcpSimple", kInetd, kTcp, kFile, kSimple, std::nullopt,
       false, interrupted},
      {"InterruptedPipesStructured", kInetd, kPipes, kFile, kStructured,
       std::nullopt, false, interrupted},
      {"InterruptedListenerSimple", kListener, kUnix, kTmpfs, kSimple,
       std::nullopt, false, interrupted},
      {"InterruptedTcpExtended", kActivated, kTcp, kFile, kExtended,
       std::nullopt, false, interrupted},
      {"FailingStorageStructured", kActivated, kUnix, kFile, kStructured,
       std::nullopt, false, failing_storage, true},
      {"FailingStorageSimple", kActivated, kTcp, kFile, kSimple, std::nullopt,
       false, failing_storage, true},
      {"FailingStorageExtended", kInetd, kUnix, kFile, kExtended, std::nullopt,
       false, failing_storage, true},
      {"FailingConnectionStructured", kActivated, kTcp, kFile, kStructured,
       std::nullopt, false, failing_connection, true},
      {"FailingConnectionSimple", kActivated, kUnix, kFile, kSimple,
       std::nullopt, false, failing_connection, true},
  };
  AddStacks(scenarios);
  return scenarios;
}

[[noreturn]] void Fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

uint64_t Number(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr || *text == '\0' ? otherwise
                                          : std::strtoull(text, nullptr, 0);
}

uint64_t Seed() {
  static const uint64_t seed =
      Number("NBDINETD_TORTURE_SEED", std::random_device()());
  return seed;
}

// The library that makes calls fail, built beside this program.
std::string FaultyCallsPath() {
  return std::filesystem::read_symlink("/proc/self/exe")
             .parent_path()
             .parent_path() /
         "support/faulty_calls.so";
}

// Four connections, each with a process of its own, or one listener's, or those
// of servers that run already.
class Servers {
 public:
  Servers(const Scenario& scenario, const Engine& engine,
          const TortureDisk& disk)
      : scenario_(scenario), engine_(engine), disk_(disk) {
    if (given_.empty() && scenario.start == Start::kListener) Listen();
    for (size_t i = 0; i < kConnections; ++i) Connect();
  }
  ~Servers() {
    if (!unix_path_.empty()) unlink(unix_path_.c_str());
  }

  Peer& peer(size_t index) {
    return peers_.empty() ? sessions_[index]->peer() : *peers_[index];
  }

  void Terminate() {
    if (listener_.has_value()) listener_->Signal(SIGTERM);
    for (auto& session : sessions_) session->server().Signal(SIGTERM);
  }

  // All clients have left. Returns whether one of them was refused.
  bool ExpectEnd(const std::vector<int>& statuses) {
    if (listener_.has_value()) {
      // It waits for its connections' processes.
      listener_->Signal(SIGTERM);
      EXPECT_TRUE(ExitedWith(listener_->WaitForExit(), kExitOk));
    }
    bool refused = false;
    for (auto& session : sessions_) {
      const ExitReport report = session->WaitForExit();
      EXPECT_TRUE(ExitedWithOneOf(report, statuses));
      refused |= report.status == kExitUnavailable;
    }
    return refused;
  }

 private:
  std::vector<std::string> Arguments() const {
    std::vector<std::string> arguments = engine_.options;
    arguments.insert(arguments.end(), scenario_.options.begin(),
                     scenario_.options.end());
    const std::vector<std::string> of_disk = disk_.options();
    arguments.insert(arguments.end(), of_disk.begin(), of_disk.end());
    if (disk_.is_kept()) {
      // All have one address.
      const std::filesystem::path copies =
          std::filesystem::path(disk_.path()).parent_path() /
          ("copies-" + std::to_string(sessions_.size()));
      std::filesystem::create_directory(copies);
      arguments.push_back("--cow-dir=" + copies.string());
    }
    arguments.push_back(disk_.path());
    return arguments;
  }

  std::vector<std::string> Environment() const {
    std::vector<std::string> environment = engine_.environment;
    if (scenario_.faults.empty()) return environment;
    environment.insert(environment.end(), scenario_.faults.begin(),
                       scenario_.faults.end());
    environment.push_back("LD_PRELOAD=" + FaultyCallsPath());
    // It comes before the sanitizer's own, which is as it should be.
    environment.emplace_back("ASAN_OPTIONS=verify_asan_link_order=0");
    return environment;
  }

  void Connect() {
    if (!given_.empty()) {
      const sockaddr_in& address = given_[peers_.size() % given_.size()];
      ConnectTo(reinterpret_cast<const sockaddr*>(&address), sizeof address);
      return;
    }
    if (scenario_.start != Start::kListener) {
      sessions_.push_back(std::make_unique<Session>(
          Arguments(),
          SessionSetup{.transport = scenario_.transport,
                       .socket_buffer_bytes = scenario_.socket_buffer_bytes,
                       .activated = scenario_.start == Start::kActivated,
                       .environment = Environment()}));
      return;
    }
    ConnectTo(reinterpret_cast<const sockaddr*>(&address_), address_length_);
  }

  void ConnectTo(const sockaddr* address, socklen_t length) {
    const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, address, length) != 0) Fail("connect");
    peers_.push_back(std::make_unique<Peer>(fd, fd));
  }

  void Listen() {
    if (scenario_.transport == Transport::kTcp) {
      auto* tcp = reinterpret_cast<sockaddr_in*>(&address_);
      tcp->sin_family = AF_INET;
      tcp->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      address_length_ = sizeof *tcp;
    } else {
      auto* local = reinterpret_cast<sockaddr_un*>(&address_);
      local->sun_family = AF_UNIX;
      unix_path_ = std::filesystem::path(disk_.path()).parent_path() / "socket";
      std::strncpy(local->sun_path, unix_path_.c_str(),
                   sizeof local->sun_path - 1);
      address_length_ = sizeof *local;
    }
    auto* generic = reinterpret_cast<sockaddr*>(&address_);
    const nbdinetd::UniqueFd fd(
        socket(address_.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid() || bind(fd.get(), generic, address_length_) != 0 ||
        listen(fd.get(), kConnections) != 0 ||
        getsockname(fd.get(), generic, &address_length_) != 0) {
      Fail("listen");
    }
    listener_.emplace(ServerProcess::Setup{.arguments = Arguments(),
                                           .in = fd.get(),
                                           .activated = true,
                                           .environment = Environment()});
  }

  const Scenario& scenario_;
  const Engine& engine_;
  const TortureDisk& disk_;
  const std::vector<sockaddr_in> given_ = GivenServers();
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::optional<ServerProcess> listener_;
  sockaddr_storage address_ = {};
  socklen_t address_length_ = 0;
  std::string unix_path_;
};

class Torture : public testing::Test {
 public:
  Torture(Scenario scenario, Engine engine, std::chrono::milliseconds duration)
      : scenario_(std::move(scenario)),
        engine_(std::move(engine)),
        duration_(duration),
        random_(Seed() ^ std::hash<std::string>()(scenario_.name)) {}

  void TestBody() override {
    // It is built with this program.
    ASSERT_TRUE(scenario_.faults.empty() ||
                access(FaultyCallsPath().c_str(), R_OK) == 0)
        << FaultyCallsPath();
    const bool large_sectors = scenario_.storage == Storage::kLoopDevice4K;
    const bool loop =
        scenario_.storage == Storage::kLoopDevice || large_sectors;
    const bool whole_sectors = loop || IsPartition(scenario_.storage);
    NEED_OR_SKIP(!loop || access("/dev/loop-control", R_OK | W_OK) == 0,
                 "needs root and loop devices");
    const std::optional<GivenDisk> given = GivenDisk::FromEnvironment();
    if (given.has_value()) min_round_requests_ = 200;
    size_t rounds = 0;
    std::unique_ptr<TortureDisk> disk;
    deadline_ = std::chrono::steady_clock::now() + duration_;
    do {
      if (given.has_value()) {
        // Each other round begins where the one before has ended, with nothing
        // in the page cache.
        if (rounds % 2 == 0) {
          // The old disk is open, and its file system can't be unmounted.
          disk.reset();
          disk = MakeGivenDisk(*given, random_);
        }
      } else if (disk == nullptr) {
        // A sector more than pages, and in a file some bytes more than sectors.
        disk = MakeOwnDisk(scenario_.storage,
                           (8 << 20) + (large_sectors   ? 4096
                                        : whole_sectors ? 512
                                                        : 512 + 101));
      }
      RunRound(*disk);
      ++rounds;
      if (std::exchange(lost_copy_, false) && !given.has_value()) {
        disk.reset();
        copies_.clear();
      }
    } while (!HasFailure() &&
             (std::chrono::steady_clock::now() < deadline_ ||
              (given.has_value() && rounds < kMinGivenRounds)));
    EXPECT_TRUE(requests_ > 0 || scenario_.faulty || HasFailure());
    std::printf(
        "# %llu requests on %zu connections, %llu bytes told to be holes\n",
        static_cast<unsigned long long>(requests_), connections_,
        static_cast<unsigned long long>(hole_bytes_));
  }

 private:
  enum class Ending { kDisconnect, kLeave, kTerminate };

  void RunRound(TortureDisk& disk) {
    Servers servers(scenario_, engine_, disk);
    const Style style = NextStyle();
    if (!disk.is_kept()) copies_.clear();
    std::vector<std::unique_ptr<TortureClient>> clients;
    for (size_t i = 0; i < kConnections; ++i) {
      bool read_only = false;
      try {
        const ExportInfo info =
            servers.peer(i).EnterTransmission(style, style != Style::kSimple);
        ASSERT_EQ(info.size, disk.model().size());
        read_only = (info.flags & kReadOnly) != 0;
      } catch (const ConnectionEnded&) {
        if (!scenario_.faulty) throw;
      } catch (const BrokenConversation&) {
        // No copy could be made, or opened.
        if (!scenario_.faulty || !disk.is_copied()) throw;
      }
      TortureModel* model = &disk.model();
      if (disk.is_copied()) {
        // No two clients write the same.
        if (copies_.size() == i) {
          copies_.push_back(
              std::make_unique<TortureModel>(disk.model(), (i + 1) << 32));
        }
        model = copies_[i].get();
      }
      // Not on a page, so that neighbours share one.
      const uint64_t part = disk.model().size() / 2 / kConnections;
      clients.push_back(std::make_unique<TortureClient>(
          servers.peer(i), *model,
          TortureClient::Setup{.own_begin = i * part,
                               .own_end = (i + 1) * part,
                               .structured = style != Style::kSimple,
                               .extended = style == Style::kExtended,
                               .read_only = read_only,
                               .slow = scenario_.slow,
                               .seed = random_(),
                               .faulty = scenario_.faulty}));
    }
    const Ending ending = PickEnding();
    RunClients(disk, servers, clients, ending);
    if (HasFailure()) {
      servers.Terminate();
      return;
    }
    for (size_t i = 0; i < kConnections; ++i) {
      // One that may have ended is simply left.
      if (scenario_.faulty) {
        servers.peer(i).Close();
      } else if (ending == Ending::kDisconnect) {
        servers.peer(i).Disconnect();
      }
    }
    std::vector<int> statuses = {kExitOk};
    if (ending == Ending::kLeave) statuses = {kExitOk, kExitProtocol};
    if (scenario_.faulty) statuses = {kExitOk, kExitProtocol, kExitSystem};
    // A copy that has lost a write isn't served again.
    if (scenario_.faulty && disk.is_kept()) {
      statuses.push_back(kExitUnavailable);
    }
    lost_copy_ = servers.ExpectEnd(statuses);
    for (auto& client : clients) {
      client->Abandon();
      requests_ += client->requests();
      hole_bytes_ += client->hole_bytes();
      ++connections_;
    }
    if (const auto wrong = disk.Check()) Report("in the end: " + *wrong);
  }

  Style NextStyle() {
    constexpr Style kStyles[] = {Style::kSimple, Style::kStructured,
                                 Style::kExtended};
    if (scenario_.style.has_value()) return *scenario_.style;
    if (!next_style_.has_value()) next_style_ = random_();
    return kStyles[(*next_style_)++ % std::size(kStyles)];
  }

  Ending PickEnding() {
    // The end of processes on other hosts can't be awaited, and what they still
    // do would meet the next round.
    if (!GivenServers().empty()) return Ending::kDisconnect;
    const uint64_t pick = random_() % 10;
    return pick < 5   ? Ending::kDisconnect
           : pick < 7 ? Ending::kLeave
                      : Ending::kTerminate;
  }

  void RunClients(TortureDisk& disk, Servers& servers,
                  std::vector<std::unique_ptr<TortureClient>>& clients,
                  Ending ending) {
    std::atomic<bool> stop = false;
    std::vector<std::thread> threads;
    for (auto& client : clients) {
      threads.emplace_back([&, one = client.get()] {
        try {
          if (ending == Ending::kLeave) {
            one->RunAndLeave(stop);
          } else {
            one->Run(stop);
          }
        } catch (const std::exception& problem) {
          Report(problem.what());
          stop = true;
        }
      });
    }
    // How long it goes on; nothing waits for it.
    const auto end = std::min(
        deadline_, std::chrono::steady_clock::now() +
                       std::chrono::milliseconds(100 + random_() % 600));
    // A machine that has much else to do tries as many requests all the same.
    const auto too_few = [&] {
      uint64_t requests = 0;
      for (const auto& client : clients) requests += client->requests();
      return !scenario_.faulty && requests < min_round_requests_;
    };
    while ((std::chrono::steady_clock::now() < end || too_few()) && !stop) {
      disk.Disturb(random_);
      std::this_thread::sleep_for(std::chrono::microseconds(random_() % 20000));
    }
    if (ending == Ending::kTerminate) {
      for (auto& client : clients) client->ExpectShutdown();
      servers.Terminate();
    } else {
      stop = true;
    }
    for (std::thread& thread : threads) thread.join();
  }

  // The first failure is the one that tells; what follows is its wake.
  void Report(const std::string& what) {
    const std::lock_guard<std::mutex> lock(report_mutex_);
    ADD_FAILURE() << what << "; NBDINETD_TORTURE_SEED=" << Seed();
  }

  const Scenario scenario_;
  const Engine engine_;
  // Where starting takes longer than all of it should, one request is enough.
  uint64_t min_round_requests_ = 1;
  const std::chrono::milliseconds duration_;
  std::chrono::steady_clock::time_point deadline_;
  std::mutex report_mutex_;
  std::mt19937_64 random_;
  std::optional<uint64_t> next_style_;
  // What each client's copy holds.
  std::vector<std::unique_ptr<TortureModel>> copies_;
  bool lost_copy_ = false;  // one of them can't be served again
  uint64_t requests_ = 0;
  uint64_t hole_bytes_ = 0;
  size_t connections_ = 0;
};

// The model itself: what a wrong server would do has to be noticed.

TEST(TortureModel, RefusesOldShiftedAndForeignBytesAndTakesTheRightOnes) {
  TortureModel model(1 << 20);
  const auto old = model.BeginWrite(1000, 5000);
  model.End(old, TortureModel::Outcome::kDone);
  const auto change = model.BeginWrite(2000, 100);
  model.End(change, TortureModel::Outcome::kDone);
  const auto start = model.BeginReading();
  const Bytes right = VersionBytes(old.version, 1999, 1) +
                      VersionBytes(change.version, 2000, 100);
  EXPECT_EQ(model.Check(start, 1999, right), std::nullopt);
  EXPECT_TRUE(model.Check(start, 1999, VersionBytes(old.version, 1999, 101)));
  EXPECT_TRUE(model.Check(start, 2000, VersionBytes(change.version, 2008, 8)));
  EXPECT_TRUE(model.Check(start, 2000, Bytes(8, '\0')));
  EXPECT_TRUE(model.CheckZeroes(start, 999, 2));
  EXPECT_EQ(model.CheckZeroes(start, 900, 100), std::nullopt);
}

TEST(TortureModel, TakesEitherWhileAWriteIsUnderWayAndOnlyTheNewOneAfterIt) {
  TortureModel model(1 << 20);
  const auto change = model.BeginWrite(0, 4096);
  const auto during = model.BeginReading();
  const Bytes written = VersionBytes(change.version, 0, 4096);
  const Bytes torn = written.substr(0, 512) + Bytes(3584, '\0');
  EXPECT_EQ(model.Check(during, 0, written), std::nullopt);
  EXPECT_EQ(model.Check(during, 0, torn), std::nullopt);
  model.End(change, TortureModel::Outcome::kDone);
  const auto after = model.BeginReading();
  EXPECT_EQ(model.Check(during, 0, torn), std::nullopt);
  EXPECT_EQ(model.Check(after, 0, written), std::nullopt);
  EXPECT_TRUE(model.Check(after, 0, torn));
}

TEST(TortureModel, RemembersWhatATrimWasSeenToHaveDone) {
  TortureModel model(1 << 20);
  const auto change = model.BeginWrite(0, 4096);
  model.End(change, TortureModel::Outcome::kDone);
  model.End(model.BeginZero(0, 4096), TortureModel::Outcome::kMaybe);
  const auto start = model.BeginReading();
  const Bytes written = VersionBytes(change.version, 0, 4096);
  EXPECT_EQ(model.Check(start, 0, written), std::nullopt);
  EXPECT_TRUE(model.Check(model.BeginReading(), 0, Bytes(4096, '\0')));
}

TEST(TortureModel, RefusesAWriteThatHappenedAlthoughItWasRefused) {
  TortureModel model(1 << 20);
  const auto change = model.BeginWrite(0, 4096);
  model.End(change, TortureModel::Outcome::kRefused);
  EXPECT_TRUE(model.Check(model.BeginReading(), 0,
                          VersionBytes(change.version, 0, 4096)));
}

TEST(TortureClient, TakesAZeroingThatAShutdownEndedForOneThatMayHaveBegun) {
  using enum TortureModel::Outcome;
  Reply reply;
  reply.error = kNbdEshutdown;
  for (const uint16_t type : {kCmdTrim, kCmdWriteZeroes}) {
    reply.message = "the server is shutting down";
    EXPECT_EQ(OutcomeOf({.type = type}, reply), kRefused);
    reply.message =
        "the connection is ending, and the server has not carried out all of "
        "the request";
    EXPECT_EQ(OutcomeOf({.type = type}, reply), kMaybe);
    reply.message.clear();
    EXPECT_EQ(OutcomeOf({.type = type}, reply), kMaybe);
  }
  EXPECT_EQ(OutcomeOf({.type = kCmdWrite}, reply), kRefused);
}

const bool kRegistered = [] {
  std::printf("# NBDINETD_TORTURE_SEED=%llu\n",
              static_cast<unsigned long long>(Seed()));
  const std::vector<Scenario> scenarios =
      GivenDisk::FromEnvironment().has_value() ? GivenScenarios() : Scenarios();
  const auto duration =
      std::chrono::milliseconds(Number("NBDINETD_TORTURE_SECONDS", 25) * 1000 /
                                (scenarios.size() * Engines().size()));
  for (const Scenario& scenario : scenarios) {
    for (const Engine& engine : Engines()) {
      testing::RegisterTest("Torture", (scenario.name + engine.name).c_str(),
                            nullptr, nullptr, __FILE__, __LINE__,
                            [=]() -> Torture* {
                              return new Torture(scenario, engine, duration);
                            });
    }
  }
  return true;
}();

}  // namespace
