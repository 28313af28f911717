// The main function of a fuzz target where there is no libFuzzer: gives it each
// file of some folders once, in TAP. A fault ends the program, as it does
// under libFuzzer, and the last line tells with which file.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The folders that are named on the command line; or else the target's own:
// that of tests/fuzz/option_replay is tests/fuzz/corpus/option.
std::vector<std::filesystem::path> Folders(int argc, char** argv,
                                           const std::string& target) {
  if (argc > 1) return {argv + 1, argv + argc};
  const char* source = std::getenv("NBDINETD_SRCDIR");
  return {std::filesystem::path(source == nullptr ? "." : source) /
          "tests/fuzz/corpus" / target};
}

}  // namespace

int main(int argc, char** argv) {
  std::string target = std::filesystem::path(argv[0]).filename().string();
  target.resize(target.size() - std::string_view("_replay").size());
  std::vector<std::filesystem::path> inputs;
  for (const auto& folder : Folders(argc, argv, target)) {
    std::error_code error;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder, error)) {
      inputs.push_back(entry.path());
    }
  }
  std::sort(inputs.begin(), inputs.end());
  std::printf("1..1\n");
  std::string fault = inputs.empty() ? "there are no inputs" : "";
  for (const auto& input : inputs) {
    const std::string bytes = Read(input);
    std::printf("# %s\n", input.filename().c_str());
    std::fflush(stdout);
    try {
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()),
                             bytes.size());
    } catch (const std::exception& wrong) {
      fault = wrong.what();
      std::printf("# wrong: %s\n", fault.c_str());
    }
  }
  std::printf("%s 1 - %zu inputs of the fuzz target %s\n",
              fault.empty() ? "ok" : "not ok", inputs.size(), target.c_str());
  return fault.empty() ? 0 : 1;
}
