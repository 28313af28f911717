// The main function of every GoogleTest program of the suite: it speaks TAP on
// standard output, which is what automake's TAP driver counts, and nothing
// else. GoogleTest's own printer is taken out, since its "[ RUN ]" lines are
// not TAP.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {

// One "# " per line, so that no line of a failure text can be mistaken for a
// result.
void PrintDiagnostic(std::string_view text) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    std::printf("# %.*s\n", static_cast<int>(line.size()), line.data());
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  std::fflush(stdout);
}

// A directive has to stay on its line, and '#' would open another one.
std::string OnOneLine(std::string_view text) {
  std::string line;
  for (char c : text) line.push_back(c == '\n' || c == '#' ? ' ' : c);
  return line;
}

// A test that hangs is one that fails, and not one that keeps the suite from
// ending. So long takes none, under valgrind neither.
constexpr unsigned kTestGuardSeconds = 300;

// What is to be said then; nothing can be made up in a signal handler.
std::string g_hang_line;  // NOLINT

void OnHang(int) {
  [[maybe_unused]] const ssize_t n =
      write(STDOUT_FILENO, g_hang_line.data(), g_hang_line.size());
  _exit(1);
}

class TapListener : public testing::EmptyTestEventListener {
 public:
  void OnTestIterationStart(const testing::UnitTest& unit_test, int) override {
    number_ = 0;
    std::printf("1..%d\n", unit_test.test_to_run_count());
    std::fflush(stdout);
  }

  void OnTestStart(const testing::TestInfo& test) override {
    g_hang_line = "not ok " + std::to_string(number_ + 1) + " - " +
                  test.test_suite_name() + "." + test.name() +
                  "\n# It has hung.\n";
    // The one test that takes as long as it is told to.
    const char* torture = getenv("NBDINETD_TORTURE_SECONDS");
    alarm(kTestGuardSeconds +
          (torture == nullptr ? 0 : static_cast<unsigned>(atoi(torture))));
  }

  // Printed when it happens and not at the end of the test: a test that crashes
  // afterwards still leaves behind what it knew.
  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (!part.failed()) return;
    const char* file =
        part.file_name() == nullptr ? "unknown file" : part.file_name();
    PrintDiagnostic(std::string(file) + ":" +
                    std::to_string(part.line_number()) + ": " + part.message());
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    alarm(0);
    const testing::TestResult& result = *test.result();
    std::string line = result.Failed() ? "not ok " : "ok ";
    line += std::to_string(++number_) + " - " + test.test_suite_name() + "." +
            test.name();
    if (result.Skipped()) line += " # SKIP " + OnOneLine(SkipReason(result));
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

 private:
  static std::string SkipReason(const testing::TestResult& result) {
    for (int i = 0; i < result.total_part_count(); ++i) {
      const testing::TestPartResult& part = result.GetTestPartResult(i);
      if (part.skipped()) return part.message();
    }
    return "no reason given";
  }

  int number_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  // What the shell, or nohup, has ignored for who runs in the background.
  for (const int number : {SIGINT, SIGQUIT, SIGHUP}) signal(number, SIG_DFL);
  signal(SIGALRM, OnHang);
  testing::InitGoogleTest(&argc, argv);
  testing::TestEventListeners& listeners =
      testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new TapListener);
  return RUN_ALL_TESTS();
}
