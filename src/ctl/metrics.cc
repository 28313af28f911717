#include "ctl/metrics.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/poll.h"
#include "base/steady_clock.h"
#include "base/utf8.h"
#include "ctl/bus.h"
#include "ctl/live_statistics.h"
#include "ctl/output.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// The longest request line with headers that is read, and how long it may take.
constexpr size_t kMaxRequestBytes = 16 * 1024;
constexpr absl::Duration kRequestPatience = absl::Seconds(10);

// One family of metrics: HELP, TYPE and its samples.
class Family {
 public:
  Family(absl::string_view name, absl::string_view type, absl::string_view help)
      : name_(name) {
    text_ = absl::StrCat("# HELP ", name, " ", help, "\n# TYPE ", name, " ",
                         type, "\n");
  }
  void Add(absl::string_view labels, uint64_t value) {
    AddPart("", labels, absl::StrCat(value));
  }
  // A sample of a part of the metric, such as its "_sum".
  void AddPart(absl::string_view part, absl::string_view labels,
               absl::string_view value) {
    absl::StrAppend(&text_, name_, part, "{", labels, "} ", value, "\n");
  }
  const std::string& text() const { return text_; }

 private:
  std::string name_, text_;
};

std::string Label(absl::string_view name, absl::string_view value) {
  return absl::StrCat(name, "=\"", LabelValue(value), "\"");
}

// The export's name; its unit's, if several have the name.
std::string LabelOf(const ManagedExport& target,
                    absl::Span<const ManagedExport> exports) {
  const auto same = std::count_if(
      exports.begin(), exports.end(),
      [&](const ManagedExport& other) { return other.name == target.name; });
  return same > 1 ? target.main_unit() : target.name;
}

std::string ExportMetrics(absl::Span<const ManagedExport> exports,
                          absl::Span<const LiveConnection> connections,
                          bool local) {
  std::map<std::string, uint64_t> clients;
  for (const LiveConnection& connection : connections) {
    ++clients[connection.export_name];
  }
  Family up("nbdinetd_export_up", "gauge",
            "Whether clients can connect: 1 for listening or running.");
  Family size("nbdinetd_export_size_bytes", "gauge", "Size of the file.");
  Family connected("nbdinetd_export_connections", "gauge",
                   "Clients that are connected now.");
  Family accepted("nbdinetd_export_accepted_total", "counter",
                  "Connections that the socket unit has accepted.");
  Family refused("nbdinetd_export_refused_total", "counter",
                 "Connections that the socket unit has refused.");
  for (const ManagedExport& target : exports) {
    if (IsUnused(target)) continue;
    const std::string label = Label("export", LabelOf(target, exports));
    up.Add(label, target.state == "listening" || target.state == "running");
    int error_number = 0;
    if (local && !target.served.file.empty()) {
      if (auto bytes = SizeOfExport(target.served, &error_number)) {
        size.Add(label, *bytes);
      }
    }
    connected.Add(label, clients[target.name]);
    if (target.per_connection) {
      accepted.Add(label, target.accepted);
      refused.Add(label, target.refused);
    }
  }
  return absl::StrCat(up.text(), size.text(), connected.text(), accepted.text(),
                      refused.text());
}

// The labels of a connection.
std::string LabelsOf(const LiveConnection& connection) {
  return absl::StrCat(Label("export", connection.export_name), ",",
                      Label("identity", connection.identity), ",",
                      Label("unit", connection.unit));
}

// `number`, which is in units of which 10^digits make one, as a decimal: exact,
// where a floating-point number isn't.
std::string Decimal(uint64_t number, int digits) {
  std::string text = absl::StrCat(number);
  if (digits == 0) return text;
  const auto decimals = static_cast<size_t>(digits);
  if (text.size() <= decimals) text.insert(0, decimals + 1 - text.size(), '0');
  text.insert(text.size() - decimals, ".");
  text.erase(text.find_last_not_of('0') + 1);
  return std::string(absl::StripSuffix(text, "."));
}

// The samples of one histogram, whose values have at most so many decimals.
// Each bucket has all lower ones in it. All bounds are there, also of empty
// buckets: sums over connections need the same bounds.
template <typename H>
void AddHistogram(const H& histogram, const std::string& labels, int digits,
                  Family& family) {
  uint64_t count = 0;
  for (size_t i = 0; i < H::kBuckets; ++i) {
    // The process of the connection may have written any numbers.
    const uint64_t of_bucket = histogram.count(i);
    count += std::min(of_bucket, UINT64_MAX - count);
    const std::string bound =
        i + 1 == H::kBuckets ? "+Inf" : Decimal(H::Bound(i), digits);
    family.AddPart("_bucket", absl::StrCat(labels, ",", Label("le", bound)),
                   absl::StrCat(count));
  }
  family.AddPart("_sum", labels, Decimal(histogram.sum(), digits));
  family.AddPart("_count", labels, absl::StrCat(count));
}

std::string HistogramMetrics(absl::Span<const LiveConnection> connections) {
  Family duration("nbdinetd_request_duration_seconds", "histogram",
                  "Time from a request's header to the end of its reply.");
  Family size("nbdinetd_request_size_bytes", "histogram",
              "Lengths of the requests that succeeded.");
  constexpr int kNanoseconds = 9;
  for (const LiveConnection& connection : connections) {
    // Those of a listening service have the same labels.
    if (!connection.per_connection || !connection.statistics.has_value()) {
      continue;
    }
    for (const Command command : kAllCommands) {
      const CommandStatistics& statistics = connection.statistics->of(command);
      const std::string labels = absl::StrCat(
          LabelsOf(connection), ",", Label("command", NameOf(command)));
      if (statistics.latency.count() > 0) {
        AddHistogram(statistics.latency, labels, kNanoseconds, duration);
      }
      if (statistics.size.count() > 0) {
        AddHistogram(statistics.size, labels, 0, size);
      }
    }
  }
  return absl::StrCat(duration.text(), size.text());
}

std::string ConnectionMetrics(absl::Span<const LiveConnection> connections) {
  Family read("nbdinetd_connection_read_bytes_total", "counter",
              "Bytes that a connected client has read.");
  Family written("nbdinetd_connection_written_bytes_total", "counter",
                 "Bytes that a connected client has written.");
  Family requests("nbdinetd_connection_requests_total", "counter",
                  "Requests of a connected client.");
  Family errors("nbdinetd_connection_errors_total", "counter",
                "Requests of a connected client that failed.");
  for (const LiveConnection& connection : connections) {
    if (!connection.counters.has_value()) continue;
    const std::string labels = LabelsOf(connection);
    read.Add(labels, connection.counters->bytes_read);
    written.Add(labels, connection.counters->bytes_written);
    requests.Add(labels, connection.counters->requests);
    errors.Add(labels, connection.counters->errors);
  }
  return absl::StrCat(read.text(), written.text(), requests.text(),
                      errors.text());
}

bool IsWholeRequest(absl::string_view request) {
  return absl::StrContains(request, "\r\n\r\n") ||
         absl::StrContains(request, "\n\n");
}

// Reads an HTTP request up to its empty line. Returns less if the peer sends no
// more, or too much.
std::string ReadRequest() {
  const absl::Time deadline = SteadyNow() + kRequestPatience;
  std::string request;
  while (!IsWholeRequest(request) && request.size() <= kMaxRequestBytes) {
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    char buffer[1024];
    if (PollUntil(absl::MakeSpan(&input, 1), deadline) == 0) break;
    const ssize_t n = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    request.append(buffer, static_cast<size_t>(n));
  }
  return request;
}

// Answers a request. `has_body` is false for HEAD.
absl::Status PrintHttp(absl::string_view code, absl::string_view body,
                       bool has_body) {
  return PrintText(absl::StrCat("HTTP/1.1 ", code,
                                "\r\nContent-Type: text/plain; version=0.0.4; "
                                "charset=utf-8\r\nContent-Length: ",
                                body.size(), "\r\nConnection: close\r\n\r\n",
                                has_body ? body : ""));
}

absl::StatusOr<std::string> CollectMetrics(const CommandLine& line) {
  absl::StatusOr<Bus> bus = Bus::Open(line.where);
  if (!bus.ok()) return bus.status();
  const absl::StatusOr<std::vector<ManagedExport>> exports =
      FindExportUnits(*bus, line.where);
  if (!exports.ok()) return exports.status();
  absl::StatusOr<LiveConnections> found =
      FindConnections(*bus, line.where, *exports);
  if (!found.ok()) return found.status();
  ReadLiveStatistics(line.where, absl::MakeSpan(found->connections));
  return MetricsText(*exports, found->connections, line.where.local());
}

// A peer that is wrong, or has left, is no failure.
absl::StatusOr<int> AnswerHttp(const CommandLine& line) {
  const std::string request = ReadRequest();
  // A port scanner, or a check whether anybody listens.
  if (request.empty()) return kSuccess;
  const HttpMethod method = MethodOf(request);
  if (method == HttpMethod::kNone) {
    PrintHttp("400 Bad Request", "GET /metrics is what is answered here\n",
              true)
        .IgnoreError();
    return kSuccess;
  }
  const absl::StatusOr<std::string> text = CollectMetrics(line);
  PrintHttp(text.ok() ? "200 OK" : "503 Service Unavailable",
            text.ok() ? *text : absl::StrCat(text.status().message(), "\n"),
            method == HttpMethod::kGet)
      .IgnoreError();
  if (!text.ok()) return text.status();
  return kSuccess;
}

}  // namespace

std::string LabelValue(absl::string_view text) {
  std::string value;
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    const absl::string_view character =
        text.substr(0, std::max(length, size_t{1}));
    if (text[0] == '\n') {
      value += "\\n";
    } else if (text[0] == '"' || text[0] == '\\') {
      absl::StrAppend(&value, "\\", character);
    } else {
      absl::StrAppend(&value, length == 0 ? "\xef\xbf\xbd" : character);
    }
    text.remove_prefix(character.size());
  }
  return value;
}

std::string MetricsText(absl::Span<const ManagedExport> exports,
                        absl::Span<const LiveConnection> connections,
                        bool local) {
  return absl::StrCat(ExportMetrics(exports, connections, local),
                      ConnectionMetrics(connections),
                      HistogramMetrics(connections));
}

HttpMethod MethodOf(absl::string_view request) {
  if (!IsWholeRequest(request)) return HttpMethod::kNone;
  const absl::string_view line =
      absl::StripSuffix(request.substr(0, request.find('\n')), "\r");
  // RFC 9112, section 3: method, target and version.
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  if (words.size() != 3 || words[1].empty() ||
      !absl::StartsWith(words[2], "HTTP/1.")) {
    return HttpMethod::kNone;
  }
  return words[0] == "GET"    ? HttpMethod::kGet
         : words[0] == "HEAD" ? HttpMethod::kHead
                              : HttpMethod::kNone;
}

absl::StatusOr<int> Metrics(const CommandLine& line) {
  if (line.http) return AnswerHttp(line);
  const absl::StatusOr<std::string> text = CollectMetrics(line);
  if (!text.ok()) return text.status();
  if (absl::Status printed = PrintText(*text); !printed.ok()) return printed;
  return kSuccess;
}

}  // namespace nbdinetd::ctl
