// A connection has to be about as fast as the better way, whichever it is, and
// looking for it must cost next to nothing.
//
// The clock is a number: a model of a server, a client and what the kernel
// holds between them says how long each reply takes.
#include "transmission/way_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <random>

#include "absl/time/time.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kReply = 256 << 10;
// What the kernel holds, of a Unix socket and of TCP.
constexpr uint64_t kHeld[] = {512 << 10, 4 << 20};

// Microseconds for each MiB.
struct Costs {
  double server;
  double client;
};
struct Machine {
  Costs send_file;
  Costs copy;
};

// Copying takes more of the server's time here, as everywhere.
constexpr Machine kServerLimits = {{350, 200}, {500, 200}};
// The client fetches the bytes from memory by itself, unless they were copied.
constexpr Machine kCopyWins = {{200, 1000}, {500, 890}};
constexpr Machine kSendFileWins = {{200, 1000}, {500, 1170}};
constexpr Machine kSendFileWinsClearly = {{200, 1000}, {500, 1440}};
constexpr Machine kEqual = {{200, 1000}, {500, 1000}};

// A server that always has a request, a client that reads all it gets, and a
// clock for each.
class Connection {
 public:
  Connection(Machine machine, uint64_t held_bytes)
      : machine_(machine), held_bytes_(held_bytes), choice_(held_bytes) {}

  void SetMachine(const Machine& machine) { machine_ = machine; }
  // By what a reply takes longer, on either side.
  void Disturb(std::function<double()> factor) { factor_ = std::move(factor); }

  void Send(uint64_t bytes) {
    for (uint64_t sent = 0; sent < bytes; sent += kReply) SendReply();
  }

  Way usual_way() const { return choice_.way(); }
  double MicrosecondsSince(double begin) const { return now_ - begin; }
  double now() const { return now_; }
  uint64_t copied() const { return copied_; }
  uint64_t timed() const { return timed_; }

 private:
  void SendReply() {
    const Way way = choice_.way();
    const Costs& costs = way == Way::kCopy ? machine_.copy : machine_.send_file;
    if (way == Way::kCopy) copied_ += kReply;
    timed_ += choice_.timed();
    const double mib = double{kReply} / kMiB;
    const double begin = now_;
    now_ += costs.server * mib * factor_();
    client_ = std::max(now_, client_) + costs.client * mib * factor_();
    on_its_way_.push_back(client_);
    // The socket is full: the server waits for the client.
    while (on_its_way_.size() * kReply > held_bytes_) {
      now_ = std::max(now_, on_its_way_.front());
      on_its_way_.pop_front();
    }
    choice_.NoteSent(kReply, absl::Microseconds(now_ - begin));
  }

  Machine machine_;
  const uint64_t held_bytes_;
  WayChoice choice_;
  std::function<double()> factor_ = [] { return 1.0; };
  double now_ = 0;
  double client_ = 0;              // when it has read what was sent
  std::deque<double> on_its_way_;  // when it has read each reply
  uint64_t copied_ = 0;
  uint64_t timed_ = 0;
};

// The microseconds for `bytes` if the better way had been known.
double Best(const Machine& machine, uint64_t bytes) {
  const auto cost = [](const Costs& costs) {
    return std::max(costs.server, costs.client);
  };
  return std::min(cost(machine.send_file), cost(machine.copy)) *
         static_cast<double>(bytes) / kMiB;
}

// The rate of a connection in parts of the rate of the better way.
double RelativeRate(const Machine& machine, uint64_t held, uint64_t bytes) {
  Connection connection(machine, held);
  connection.Send(bytes);
  return Best(machine, bytes) / connection.now();
}

TEST(WayChoiceTest, AShortConnectionSendsFilesAndMeasuresNothing) {
  for (const uint64_t held : kHeld) {
    Connection connection(kCopyWins, held);
    connection.Send(WayChoice::kWarmUpBytes);
    EXPECT_EQ(connection.copied(), 0u);
    EXPECT_EQ(connection.timed(), 0u);
  }
}

// A quarter of a GiB is what each of nbdcopy's four connections reads of an
// export of one GiB.
TEST(WayChoiceTest, AConnectionIsAboutAsFastAsTheBetterWay) {
  for (const uint64_t held : kHeld) {
    for (const Machine& machine : {kServerLimits, kCopyWins, kSendFileWins,
                                   kSendFileWinsClearly, kEqual}) {
      EXPECT_GE(RelativeRate(machine, held, 256 * kMiB), 0.97)
          << "client " << machine.send_file.client << " and "
          << machine.copy.client << ", " << held << " held";
      EXPECT_GE(RelativeRate(machine, held, 8192 * kMiB), 0.99)
          << "client " << machine.send_file.client << " and "
          << machine.copy.client << ", " << held << " held";
    }
  }
}

TEST(WayChoiceTest, CopyingIsChosenWhereItIsFaster) {
  for (const uint64_t held : kHeld) {
    Connection connection(kCopyWins, held);
    connection.Send(128 * kMiB);
    const uint64_t before = connection.copied();
    connection.Send(128 * kMiB);
    EXPECT_GE(connection.copied() - before, 100 * kMiB);
  }
}

TEST(WayChoiceTest, EqualWaysAreSentByFileAndSeldomLookedAt) {
  for (const uint64_t held : kHeld) {
    Connection connection(kEqual, held);
    connection.Send(8192 * kMiB);
    EXPECT_LE(connection.copied(), 8192 * kMiB / 25);
  }
}

// Four connections at once would otherwise copy a fifth of an export of a GiB.
TEST(WayChoiceTest, AConnectionThatEndsSoonIsLookedAtOnce) {
  for (const uint64_t held : kHeld) {
    Connection connection(kEqual, held);
    connection.Send(256 * kMiB);
    EXPECT_GT(connection.copied(), 0u);
    EXPECT_LE(connection.copied(), 18 * kMiB);
  }
}

// Copying takes more processor time, also where it is a little faster.
TEST(WayChoiceTest, AGainOfTwoPercentIsNoneForCopying) {
  for (const uint64_t held : kHeld) {
    Connection connection({{200, 1000}, {500, 980}}, held);
    connection.Send(8192 * kMiB);
    EXPECT_LE(connection.copied(), 8192 * kMiB / 20);
  }
}

TEST(WayChoiceTest, AMachineThatBecomesFasterIsNotTakenForABetterWay) {
  for (const uint64_t held : kHeld) {
    Connection connection(kEqual, held);
    double speed = 1;
    connection.Disturb([&] {
      speed *= 1.0015;  // two for each reply: by 27 % in 20 MiB
      return 1 / speed;
    });
    connection.Send(128 * kMiB);
    EXPECT_LE(connection.copied(), 50 * kMiB);
  }
}

// A network that is slower than both ends.
TEST(WayChoiceTest, APeerThatLimitsBothWaysIsSentFiles) {
  for (const uint64_t held : kHeld) {
    Connection connection({{200, 9000}, {500, 9000}}, held);
    connection.Send(4096 * kMiB);
    EXPECT_LE(connection.copied(), 4096 * kMiB / 25);
  }
}

TEST(WayChoiceTest, TheChoiceFollowsTheMachine) {
  for (const uint64_t held : kHeld) {
    Connection connection(kSendFileWins, held);
    connection.Send(1024 * kMiB);
    EXPECT_LE(connection.copied(), 64 * kMiB);
    for (int i = 0; i < 3; ++i) {
      for (const Machine& machine : {kCopyWins, kSendFileWins}) {
        connection.SetMachine(machine);
        connection.Send(4096 * kMiB);  // until a look finds out
        const double begin = connection.now();
        connection.Send(1024 * kMiB);
        EXPECT_GE(
            Best(machine, 1024 * kMiB) / connection.MicrosecondsSince(begin),
            0.97)
            << "change " << i;
      }
    }
  }
}

TEST(WayChoiceTest, OneDisturbanceChangesNothing) {
  for (const uint64_t held : kHeld) {
    // At each place in turn, a reply takes as long as the 50 MiB around it.
    for (uint64_t place = 0; place < 512; place += 3) {
      Connection connection(kSendFileWins, held);
      uint64_t sides = 0;
      connection.Disturb([&] { return sides++ == 2 * place ? 200.0 : 1.0; });
      connection.Send(1024 * kMiB);
      const uint64_t before = connection.copied();
      connection.Send(256 * kMiB);
      EXPECT_LE(connection.copied() - before, 32 * kMiB) << place;
    }
  }
}

// Other processes take the processor for a while, now and then: windows then
// differ by a factor of two. The average over many connections is still near to
// the better way.
TEST(WayChoiceTest, ABusyMachineIsServedAlmostAsWell) {
  for (const uint64_t held : kHeld) {
    for (const Machine& machine : {kServerLimits, kCopyWins, kSendFileWins,
                                   kSendFileWinsClearly, kEqual}) {
      double chosen = 0, send_file = 0, copy = 0;
      for (unsigned seed = 0; seed < 50; ++seed) {
        const auto run = [&](const Machine& of) {
          std::minstd_rand random(seed + 1);
          std::uniform_real_distribution<double> uniform(0, 1);
          Connection connection(of, held);
          connection.Disturb([&] {
            return uniform(random) < 0.02 ? 40 * uniform(random) : 1;
          });
          connection.Send(1024 * kMiB);
          return connection.now();
        };
        chosen += run(machine);
        send_file += run({machine.send_file, machine.send_file});
        copy += run({machine.copy, machine.copy});
      }
      EXPECT_GE(std::min(send_file, copy) / chosen, 0.94)
          << "client " << machine.send_file.client << " and "
          << machine.copy.client << ", " << held << " held";
    }
  }
}

}  // namespace
}  // namespace nbdinetd
