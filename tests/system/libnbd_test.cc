// A real client, libnbd, through its C API: what it believes of the server
// after the handshake, pipelined asynchronous requests, structured reads and
// block status by its callbacks, invalid requests with its own checks switched
// off, and its ways to leave. The file is long because the API has a call for
// each of these.

#include <gtest/gtest.h>
#include <libnbd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/image.h"
#include "support/server_process.h"
#include "support/session.h"
#include "support/wire.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

constexpr uint64_t kImageSize = 8 << 20;
constexpr int kPollMilliseconds = 60000;

struct CloseHandle {
  void operator()(nbd_handle* handle) const { nbd_close(handle); }
};
using Handle = std::unique_ptr<nbd_handle, CloseHandle>;

struct FreeText {
  void operator()(char* text) const { std::free(text); }
};
using Text = std::unique_ptr<char, FreeText>;

Handle NewHandle() {
  Handle handle(nbd_create());
  if (handle == nullptr) throw std::runtime_error(nbd_get_error());
  return handle;
}

// Whether a call of libnbd succeeded; its own words if not.
testing::AssertionResult Ok(int64_t result) {
  if (result >= 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << nbd_get_error();
}

// Whether a call of libnbd failed with this errno value.
testing::AssertionResult FailedWith(int64_t result, int error) {
  if (result >= 0) return testing::AssertionFailure() << "it succeeded";
  if (nbd_get_errno() == error) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << nbd_get_error() << ", instead of " << std::strerror(error);
}

// Lets libnbd start the server itself, as it does for a client that knows a
// command.
int ConnectCommand(nbd_handle* handle, std::vector<std::string> arguments) {
  // What the server logs would go to the standard error of the test.
  arguments.insert(arguments.begin(), {ProgramPath(), "--log=null"});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  return nbd_connect_command(handle, argv.data());
}

nbd_completion_callback Completion(int (*callback)(void*, int*), void* data) {
  return {.callback = callback, .user_data = data, .free = nullptr};
}

class Libnbd : public testing::Test {
 protected:
  nbd_handle* nbd() { return handle_.get(); }
  const TempImage& image() const { return image_; }

  // Starts a server for the image and joins the handle to it by a socket pair.
  int Connect(std::vector<std::string> arguments = {}) {
    return ConnectTo(image_, std::move(arguments));
  }
  int ConnectTo(const TempImage& served,
                std::vector<std::string> arguments = {}) {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
      throw std::runtime_error(std::string("socketpair: ") +
                               std::strerror(errno));
    }
    arguments.push_back(served.path());
    ServerProcess::Setup setup;
    setup.arguments = std::move(arguments);
    setup.in = setup.out = fds[1];
    server_.emplace(setup);
    close(fds[1]);
    return nbd_connect_socket(nbd(), fds[0]);
  }
  const ExitReport& WaitForExit() { return server_->WaitForExit(); }

  void Leave() {
    EXPECT_TRUE(Ok(nbd_shutdown(nbd(), 0)));
    EXPECT_TRUE(ExitedWith(WaitForExit(), kExitOk));
  }
  // Runs the event loop until the condition holds.
  void PollUntil(const std::function<bool()>& condition) {
    while (!condition()) {
      const int ready = nbd_poll(nbd(), kPollMilliseconds);
      if (ready < 0) throw std::runtime_error(nbd_get_error());
      if (ready == 0)
        throw std::runtime_error("hang: the server does not answer");
    }
  }
  void ExpectRead(uint64_t offset, size_t length, uint64_t seed = 1) {
    Bytes buffer(length, 'x');
    ASSERT_TRUE(Ok(nbd_pread(nbd(), buffer.data(), length, offset, 0)));
    EXPECT_TRUE(SameBytes(buffer, Pattern(offset, length, seed)));
  }

 private:
  TempImage image_ = TempImage::WithPattern(kImageSize);
  Handle handle_ = NewHandle();
  std::optional<ServerProcess> server_;
};

// -- Handshake

TEST_F(Libnbd, SeesFixedNewstyleWithStructuredRepliesAndTheSize) {
  ASSERT_TRUE(Ok(Connect()));
  EXPECT_STREQ(nbd_get_protocol(nbd()), "newstyle-fixed");
  EXPECT_EQ(nbd_get_structured_replies_negotiated(nbd()), 1);
  EXPECT_EQ(nbd_get_tls_negotiated(nbd()), 0);
  EXPECT_EQ(nbd_get_size(nbd()), static_cast<int64_t>(kImageSize));
  Leave();
}

TEST_F(Libnbd, SeesEveryFeatureOfAWritableExport) {
  ASSERT_TRUE(Ok(Connect()));
  EXPECT_EQ(nbd_is_read_only(nbd()), 0);
  EXPECT_EQ(nbd_can_flush(nbd()), 1);
  EXPECT_EQ(nbd_can_fua(nbd()), 1);
  EXPECT_EQ(nbd_can_trim(nbd()), 1);
  EXPECT_EQ(nbd_can_zero(nbd()), 1);
  EXPECT_EQ(nbd_can_fast_zero(nbd()), 1);
  EXPECT_EQ(nbd_can_df(nbd()), 1);
  EXPECT_EQ(nbd_can_cache(nbd()), 1);
  EXPECT_EQ(nbd_can_multi_conn(nbd()), 1);
  Leave();
}

TEST_F(Libnbd, SeesAReadOnlyExportAsSuch) {
  ASSERT_TRUE(Ok(Connect({"-r"})));
  EXPECT_EQ(nbd_is_read_only(nbd()), 1);
  ExpectRead(4096, 4096);
  Leave();
}

TEST_F(Libnbd, LearnsTheBlockSizes) {
  ASSERT_TRUE(Ok(Connect()));
  EXPECT_EQ(nbd_get_block_size(nbd(), LIBNBD_SIZE_MINIMUM), 1);
  EXPECT_GE(nbd_get_block_size(nbd(), LIBNBD_SIZE_PREFERRED), 512);
  EXPECT_EQ(nbd_get_block_size(nbd(), LIBNBD_SIZE_MAXIMUM), 32 << 20);
  Leave();
}

TEST_F(Libnbd, LearnsTheCanonicalNameAndTheDescription) {
  ASSERT_TRUE(Ok(nbd_set_full_info(nbd(), true)));
  ASSERT_TRUE(Ok(Connect({"-e", "disk", "--description=A disk for tests"})));
  const Text name(nbd_get_canonical_export_name(nbd()));
  const Text description(nbd_get_export_description(nbd()));
  EXPECT_STREQ(name.get(), "disk");
  EXPECT_STREQ(description.get(), "A disk for tests");
  Leave();
}

TEST_F(Libnbd, ListsTheExportWithItsDescription) {
  ASSERT_TRUE(Ok(nbd_set_opt_mode(nbd(), true)));
  ASSERT_TRUE(Ok(Connect({"-e", "disk", "--description=text"})));
  std::vector<std::pair<std::string, std::string>> seen;
  nbd_list_callback callback = {
      .callback =
          [](void* data, const char* name, const char* description) {
            static_cast<decltype(seen)*>(data)->emplace_back(name, description);
            return 0;
          },
      .user_data = &seen,
      .free = nullptr};
  EXPECT_EQ(nbd_opt_list(nbd(), callback), 1);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].first, "disk");
  EXPECT_EQ(seen[0].second, "text");
  EXPECT_TRUE(Ok(nbd_opt_abort(nbd())));
  EXPECT_TRUE(ExitedWith(WaitForExit(), kExitOk));
}

TEST_F(Libnbd, CanAskForAnotherExportAfterOneThatIsUnknown) {
  ASSERT_TRUE(Ok(nbd_set_opt_mode(nbd(), true)));
  ASSERT_TRUE(Ok(nbd_set_export_name(nbd(), "another")));
  ASSERT_TRUE(Ok(Connect({"-e", "disk"})));
  EXPECT_TRUE(FailedWith(nbd_opt_info(nbd()), ENOENT));
  EXPECT_TRUE(FailedWith(nbd_opt_go(nbd()), ENOENT));
  EXPECT_EQ(nbd_aio_is_negotiating(nbd()), 1);
  ASSERT_TRUE(Ok(nbd_set_export_name(nbd(), "disk")));
  EXPECT_TRUE(Ok(nbd_opt_info(nbd())));
  EXPECT_EQ(nbd_get_size(nbd()), static_cast<int64_t>(kImageSize));
  EXPECT_TRUE(Ok(nbd_opt_go(nbd())));
  ExpectRead(0, 512);
  Leave();
}

TEST_F(Libnbd, ListsTheMetadataContexts) {
  ASSERT_TRUE(Ok(nbd_set_opt_mode(nbd(), true)));
  ASSERT_TRUE(Ok(Connect()));
  std::vector<std::string> seen;
  nbd_context_callback callback = {
      .callback =
          [](void* data, const char* name) {
            static_cast<decltype(seen)*>(data)->emplace_back(name);
            return 0;
          },
      .user_data = &seen,
      .free = nullptr};
  EXPECT_EQ(nbd_opt_list_meta_context(nbd(), callback), 1);
  EXPECT_EQ(seen, std::vector<std::string>{"base:allocation"});
  EXPECT_TRUE(Ok(nbd_opt_abort(nbd())));
  EXPECT_TRUE(ExitedWith(WaitForExit(), kExitOk));
}

TEST_F(Libnbd, GetsOnlyTheContextsThatExist) {
  ASSERT_TRUE(Ok(nbd_add_meta_context(nbd(), "base:allocation")));
  ASSERT_TRUE(Ok(nbd_add_meta_context(nbd(), "x-local:nothing")));
  ASSERT_TRUE(Ok(Connect()));
  EXPECT_EQ(nbd_can_meta_context(nbd(), "base:allocation"), 1);
  EXPECT_EQ(nbd_can_meta_context(nbd(), "x-local:nothing"), 0);
  Leave();
}

TEST_F(Libnbd, FallsBackToPlainTextWhenTlsIsOnlyAllowed) {
  NEED_OR_SKIP(nbd_supports_tls(nbd()) == 1,
               "this libnbd was built without TLS");
  ASSERT_TRUE(Ok(nbd_set_tls(nbd(), LIBNBD_TLS_ALLOW)));
  ASSERT_TRUE(Ok(Connect()));
  EXPECT_EQ(nbd_get_tls_negotiated(nbd()), 0);
  ExpectRead(0, 512);
  Leave();
}

TEST_F(Libnbd, RefusesByItselfWhenTlsIsRequired) {
  NEED_OR_SKIP(nbd_supports_tls(nbd()) == 1,
               "this libnbd was built without TLS");
  ASSERT_TRUE(Ok(nbd_set_tls(nbd(), LIBNBD_TLS_REQUIRE)));
  EXPECT_LT(Connect(), 0);
  EXPECT_TRUE(ExitedWith(WaitForExit(), kExitOk));
}

TEST_F(Libnbd, OldHandshakeFlagsWork) {
  for (uint32_t flags :
       {uint32_t{0}, uint32_t{LIBNBD_HANDSHAKE_FLAG_FIXED_NEWSTYLE},
        uint32_t{LIBNBD_HANDSHAKE_FLAG_NO_ZEROES}}) {
    const Handle old = NewHandle();
    ASSERT_TRUE(Ok(nbd_set_handshake_flags(old.get(), flags)));
    ASSERT_TRUE(Ok(ConnectCommand(old.get(), {"-s", image().path()}))) << flags;
    Bytes buffer(4096, 'x');
    EXPECT_TRUE(
        Ok(nbd_pread(old.get(), buffer.data(), buffer.size(), 8192, 0)));
    EXPECT_TRUE(SameBytes(buffer, Pattern(8192, 4096)));
    EXPECT_TRUE(Ok(nbd_shutdown(old.get(), 0)));
  }
}

TEST_F(Libnbd, StartsTheServerItselfWithSingle) {
  const Handle own = NewHandle();
  ASSERT_TRUE(
      Ok(ConnectCommand(own.get(), {"--single", "-r", image().path()})));
  EXPECT_EQ(nbd_is_read_only(own.get()), 1);
  Bytes buffer(100000, 'x');
  EXPECT_TRUE(Ok(nbd_pread(own.get(), buffer.data(), buffer.size(), 99, 0)));
  EXPECT_TRUE(SameBytes(buffer, Pattern(99, 100000)));
  EXPECT_TRUE(Ok(nbd_shutdown(own.get(), 0)));
}

// -- Data

TEST_F(Libnbd, WritesReadsFlushesTrimsZeroesAndCaches) {
  for (bool structured : {true, false}) {
    const Handle handle = NewHandle();
    ASSERT_TRUE(
        Ok(nbd_set_request_structured_replies(handle.get(), structured)));
    ASSERT_TRUE(Ok(ConnectCommand(handle.get(), {"-s", image().path()})));
    EXPECT_EQ(nbd_get_structured_replies_negotiated(handle.get()),
              structured ? 1 : 0);
    const Bytes data = Pattern(0, 1 << 20, 12);
    constexpr uint32_t kFua = LIBNBD_CMD_FLAG_FUA;
    EXPECT_TRUE(Ok(nbd_pwrite(handle.get(), data.data(), data.size(), 777, 0)));
    EXPECT_TRUE(Ok(nbd_pwrite(handle.get(), data.data(), 4096, 4 << 20, kFua)));
    EXPECT_TRUE(Ok(nbd_flush(handle.get(), 0)));
    EXPECT_TRUE(Ok(nbd_zero(handle.get(), 100000, 5 << 20, kFua)));
    EXPECT_TRUE(
        Ok(nbd_zero(handle.get(), 4096, 6 << 20, LIBNBD_CMD_FLAG_NO_HOLE)));
    EXPECT_TRUE(Ok(nbd_trim(handle.get(), 65536, 7 << 20, kFua)));
    EXPECT_TRUE(Ok(nbd_cache(handle.get(), kImageSize, 0, 0)));
    Bytes buffer(data.size(), 'x');
    EXPECT_TRUE(
        Ok(nbd_pread(handle.get(), buffer.data(), buffer.size(), 777, 0)));
    EXPECT_TRUE(SameBytes(buffer, data));
    EXPECT_TRUE(Ok(nbd_shutdown(handle.get(), 0)));
    EXPECT_TRUE(SameBytes(image().Read(777, data.size()), data));
    EXPECT_TRUE(SameBytes(image().Read(5 << 20, 100000), Bytes(100000, '\0')));
    EXPECT_TRUE(SameBytes(image().Read(6 << 20, 4096), Bytes(4096, '\0')));
    image().Write(0, Pattern(0, kImageSize));
  }
}

TEST_F(Libnbd, HundredsOfReadsInFlightEachGetTheirBytes) {
  constexpr size_t kCount = 600;
  constexpr size_t kLength = 12345;
  for (bool cold : {false, true}) {
    if (cold) image().DropCache();
    const Handle handle = NewHandle();
    ASSERT_TRUE(Ok(ConnectCommand(handle.get(), {"-s", image().path()})));
    std::vector<Bytes> buffers(kCount, Bytes(kLength, 'x'));
    std::vector<int> errors(kCount, -1);
    for (size_t i = 0; i < kCount; ++i) {
      const auto callback = Completion(
          [](void* data, int* error) {
            *static_cast<int*>(data) = *error;
            return 1;
          },
          &errors[i]);
      ASSERT_TRUE(Ok(nbd_aio_pread(handle.get(), buffers[i].data(), kLength,
                                   i * 13001, callback, 0)));
    }
    while (nbd_aio_in_flight(handle.get()) > 0) {
      ASSERT_EQ(nbd_poll(handle.get(), kPollMilliseconds), 1)
          << "the server hangs";
    }
    for (size_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(errors[i], 0) << i;
      ASSERT_TRUE(SameBytes(buffers[i], Pattern(i * 13001, kLength))) << i;
    }
    EXPECT_TRUE(Ok(nbd_shutdown(handle.get(), 0)));
  }
}

TEST_F(Libnbd, MixedReadsAndWritesInFlightAreAllRight) {
  ASSERT_TRUE(Ok(Connect()));
  constexpr size_t kCount = 128;
  constexpr size_t kLength = 32768;
  const Bytes data = Pattern(4 << 20, kCount * kLength, 44);
  std::vector<Bytes> buffers(kCount, Bytes(kLength, 'x'));
  int failures = 0;
  const auto count_failures = [](void* user_data, int* error) {
    if (*error != 0) ++*static_cast<int*>(user_data);
    return 1;
  };
  for (size_t i = 0; i < kCount; ++i) {
    // Writes go to the second half, reads to the first: they don't touch.
    ASSERT_TRUE(Ok(nbd_aio_pwrite(nbd(), data.data() + i * kLength, kLength,
                                  (4 << 20) + i * kLength,
                                  Completion(count_failures, &failures),
                                  i % 16 == 0 ? LIBNBD_CMD_FLAG_FUA : 0)));
    ASSERT_TRUE(
        Ok(nbd_aio_pread(nbd(), buffers[i].data(), kLength, i * kLength / 2,
                         Completion(count_failures, &failures), 0)));
    if (i % 32 == 0) {
      ASSERT_TRUE(
          Ok(nbd_aio_flush(nbd(), Completion(count_failures, &failures), 0)));
    }
  }
  PollUntil([this] { return nbd_aio_in_flight(nbd()) == 0; });
  EXPECT_EQ(failures, 0);
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(SameBytes(buffers[i], Pattern(i * kLength / 2, kLength))) << i;
  }
  Leave();
  EXPECT_TRUE(SameBytes(image().Read(4 << 20, data.size()), data));
}

TEST_F(Libnbd, TwoConnectionsSeeEachOthersWrites) {
  ASSERT_TRUE(Ok(Connect()));
  const Handle other = NewHandle();
  ASSERT_TRUE(Ok(ConnectCommand(other.get(), {"-s", image().path()})));
  const Bytes data = Pattern(0, 65536, 33);
  EXPECT_TRUE(Ok(nbd_pwrite(nbd(), data.data(), data.size(), 0, 0)));
  EXPECT_TRUE(Ok(nbd_flush(nbd(), 0)));
  Bytes buffer(data.size(), 'x');
  EXPECT_TRUE(Ok(nbd_pread(other.get(), buffer.data(), buffer.size(), 0, 0)));
  EXPECT_TRUE(SameBytes(buffer, data));
  EXPECT_TRUE(Ok(nbd_shutdown(other.get(), 0)));
  Leave();
}

TEST_F(Libnbd, TheGreatestRequestWorksBothWays) {
  const TempImage large = TempImage::Sparse(kMaxPayload + 4096);
  ASSERT_TRUE(Ok(ConnectTo(large)));
  const Bytes data = Pattern(0, kMaxPayload, 3);
  EXPECT_TRUE(Ok(nbd_pwrite(nbd(), data.data(), data.size(), 4096, 0)));
  Bytes buffer(data.size(), 'x');
  EXPECT_TRUE(Ok(nbd_pread(nbd(), buffer.data(), buffer.size(), 4096, 0)));
  EXPECT_TRUE(SameBytes(buffer, data));
  Leave();
}

// -- Structured reads

struct SeenChunk {
  uint64_t offset;
  uint64_t length;
  unsigned status;
};

nbd_chunk_callback CollectChunks(std::vector<SeenChunk>* chunks) {
  return {.callback =
              [](void* data, const void*, size_t count, uint64_t offset,
                 unsigned status, int*) {
                static_cast<std::vector<SeenChunk>*>(data)->push_back(
                    {offset, count, status});
                return 0;
              },
          .user_data = chunks,
          .free = nullptr};
}

TEST_F(Libnbd, AStructuredReadTellsDataAndHolesInChunksThatCoverIt) {
  const TempImage sparse = TempImage::Sparse(kImageSize);
  sparse.Write(3 << 20, Pattern(3 << 20, 1 << 20));
  sparse.DropCache();
  ASSERT_TRUE(Ok(ConnectTo(sparse)));
  std::vector<SeenChunk> chunks;
  Bytes buffer(kImageSize, 'x');
  ASSERT_TRUE(Ok(nbd_pread_structured(nbd(), buffer.data(), buffer.size(), 0,
                                      CollectChunks(&chunks), 0)));
  EXPECT_TRUE(SameBytes(buffer, sparse.Read(0, kImageSize)));
  uint64_t data = 0;
  uint64_t holes = 0;
  for (const SeenChunk& chunk : chunks) {
    ASSERT_TRUE(chunk.status == LIBNBD_READ_DATA ||
                chunk.status == LIBNBD_READ_HOLE);
    (chunk.status == LIBNBD_READ_DATA ? data : holes) += chunk.length;
  }
  EXPECT_EQ(data + holes, kImageSize);
  EXPECT_GE(data, 1u << 20);
  EXPECT_GT(holes, 0u);
  Leave();
}

TEST_F(Libnbd, ADontFragmentReadIsOneChunk) {
  ASSERT_TRUE(Ok(Connect()));
  std::vector<SeenChunk> chunks;
  Bytes buffer(4 << 20, 'x');
  ASSERT_TRUE(
      Ok(nbd_pread_structured(nbd(), buffer.data(), buffer.size(), 100,
                              CollectChunks(&chunks), LIBNBD_CMD_FLAG_DF)));
  EXPECT_TRUE(SameBytes(buffer, Pattern(100, buffer.size())));
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].offset, 100u);
  EXPECT_EQ(chunks[0].length, buffer.size());
  Leave();
}

// -- Block status

struct SeenExtents {
  std::string context;
  uint64_t offset = 0;
  std::vector<Extent> extents;
};

nbd_extent_callback CollectExtents(SeenExtents* seen) {
  return {.callback =
              [](void* data, const char* context, uint64_t offset,
                 uint32_t* entries, size_t count, int*) {
                auto* out = static_cast<SeenExtents*>(data);
                out->context = context;
                out->offset = offset;
                for (size_t i = 0; i + 1 < count; i += 2) {
                  out->extents.push_back({entries[i], entries[i + 1]});
                }
                return 0;
              },
          .user_data = seen,
          .free = nullptr};
}

TEST_F(Libnbd, BlockStatusTellsDataAndHoles) {
  const TempImage sparse = TempImage::Sparse(kImageSize);
  sparse.Write(3 << 20, Pattern(0, 1 << 20));
  ASSERT_TRUE(Ok(nbd_add_meta_context(nbd(), "base:allocation")));
  ASSERT_TRUE(Ok(ConnectTo(sparse)));
  SeenExtents seen;
  ASSERT_TRUE(
      Ok(nbd_block_status(nbd(), kImageSize, 0, CollectExtents(&seen), 0)));
  EXPECT_EQ(seen.context, "base:allocation");
  EXPECT_EQ(seen.offset, 0u);
  const std::vector<Segment> expected = sparse.Segments();
  ASSERT_EQ(seen.extents.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(seen.extents[i].length, expected[i].length) << i;
    EXPECT_EQ(seen.extents[i].flags, expected[i].hole ? 3u : 0u) << i;
  }
  Leave();
}

TEST_F(Libnbd, BlockStatusWithReqOneTellsOneExtent) {
  const TempImage sparse = TempImage::Sparse(kImageSize);
  sparse.Write(3 << 20, Pattern(0, 1 << 20));
  ASSERT_TRUE(Ok(nbd_add_meta_context(nbd(), "base:allocation")));
  ASSERT_TRUE(Ok(ConnectTo(sparse)));
  for (uint64_t offset :
       {uint64_t{0}, uint64_t{3 << 20}, uint64_t{(4 << 20) - 512}}) {
    SeenExtents seen;
    ASSERT_TRUE(
        Ok(nbd_block_status(nbd(), 2 << 20, offset, CollectExtents(&seen),
                            LIBNBD_CMD_FLAG_REQ_ONE)));
    ASSERT_EQ(seen.extents.size(), 1u);
    EXPECT_LE(seen.extents[0].length, 2u << 20);
    EXPECT_EQ(seen.offset, offset);
  }
  Leave();
}

// -- Requests that libnbd would not let through by itself

class Unchecked : public Libnbd {
 protected:
  void ConnectUnchecked(std::vector<std::string> arguments = {}) {
    ASSERT_TRUE(Ok(nbd_add_meta_context(nbd(), "base:allocation")));
    ASSERT_TRUE(Ok(nbd_set_strict_mode(nbd(), 0)));
    ASSERT_TRUE(Ok(Connect(std::move(arguments))));
  }
  char buffer_[65536] = {};
};

TEST_F(Unchecked, RequestsOverTheEndFailAndTheConnectionGoesOn) {
  ConnectUnchecked();
  constexpr uint64_t kOffset = kImageSize - 512;
  EXPECT_TRUE(FailedWith(nbd_pread(nbd(), buffer_, 1024, kOffset, 0), EINVAL));
  EXPECT_TRUE(FailedWith(nbd_pwrite(nbd(), buffer_, 1024, kOffset, 0), ENOSPC));
  EXPECT_TRUE(FailedWith(nbd_trim(nbd(), 1024, kOffset, 0), EINVAL));
  EXPECT_TRUE(FailedWith(nbd_zero(nbd(), 1024, kOffset, 0), ENOSPC));
  EXPECT_TRUE(FailedWith(nbd_cache(nbd(), 1024, kOffset, 0), EINVAL));
  SeenExtents seen;
  EXPECT_TRUE(FailedWith(
      nbd_block_status(nbd(), 1024, kOffset, CollectExtents(&seen), 0),
      EINVAL));
  ExpectRead(kOffset, 512);
  Leave();
}

TEST_F(Unchecked, WritesToAReadOnlyExportFailAndTheConnectionGoesOn) {
  ConnectUnchecked({"-r"});
  EXPECT_TRUE(FailedWith(nbd_pwrite(nbd(), buffer_, 65536, 0, 0), EPERM));
  EXPECT_TRUE(FailedWith(nbd_trim(nbd(), 512, 0, 0), EPERM));
  EXPECT_TRUE(FailedWith(nbd_zero(nbd(), 512, 0, 0), EPERM));
  ExpectRead(0, 65536);
  Leave();
}

TEST_F(Unchecked, FlagsOfOtherCommandsFailAndTheConnectionGoesOn) {
  ConnectUnchecked();
  constexpr uint32_t kReqOne = LIBNBD_CMD_FLAG_REQ_ONE;
  EXPECT_TRUE(FailedWith(nbd_pread(nbd(), buffer_, 512, 0, kReqOne), EINVAL));
  EXPECT_TRUE(FailedWith(nbd_pwrite(nbd(), buffer_, 512, 0, LIBNBD_CMD_FLAG_DF),
                         EINVAL));
  EXPECT_TRUE(FailedWith(nbd_flush(nbd(), LIBNBD_CMD_FLAG_NO_HOLE), EINVAL));
  EXPECT_TRUE(
      FailedWith(nbd_trim(nbd(), 512, 0, LIBNBD_CMD_FLAG_FAST_ZERO), EINVAL));
  // No flag yet. 0x20 announces a payload, with extended headers.
  EXPECT_TRUE(FailedWith(nbd_cache(nbd(), 512, 0, 0x40), EINVAL));
  ExpectRead(0, 65536);
  Leave();
}

TEST_F(Unchecked, LengthsOfZeroAreNoReasonToDisconnect) {
  ConnectUnchecked();
  EXPECT_TRUE(Ok(nbd_pread(nbd(), buffer_, 0, 0, 0)));
  EXPECT_TRUE(Ok(nbd_pwrite(nbd(), buffer_, 0, 0, 0)));
  EXPECT_TRUE(Ok(nbd_trim(nbd(), 0, 0, 0)));
  EXPECT_TRUE(Ok(nbd_zero(nbd(), 0, 0, 0)));
  EXPECT_TRUE(Ok(nbd_cache(nbd(), 0, 0, 0)));
  SeenExtents seen;
  EXPECT_TRUE(FailedWith(
      nbd_block_status(nbd(), 0, 0, CollectExtents(&seen), 0), EINVAL));
  ExpectRead(0, 512);
  Leave();
}

TEST_F(Unchecked, AFailingRequestAmidManyFailsAlone) {
  ConnectUnchecked();
  constexpr size_t kCount = 100;
  std::vector<Bytes> buffers(kCount, Bytes(4096, 'x'));
  std::vector<int> errors(kCount, -1);
  for (size_t i = 0; i < kCount; ++i) {
    const uint64_t offset = i % 10 == 3 ? kImageSize : i * 4096;
    ASSERT_TRUE(Ok(nbd_aio_pread(nbd(), buffers[i].data(), 4096, offset,
                                 Completion(
                                     [](void* data, int* error) {
                                       *static_cast<int*>(data) = *error;
                                       return 1;
                                     },
                                     &errors[i]),
                                 0)));
  }
  PollUntil([this] { return nbd_aio_in_flight(nbd()) == 0; });
  for (size_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(errors[i], i % 10 == 3 ? EINVAL : 0) << i;
    if (errors[i] == 0) {
      EXPECT_TRUE(SameBytes(buffers[i], Pattern(i * 4096, 4096)));
    }
  }
  Leave();
}

// -- Leaving

TEST_F(Libnbd, ShutdownWaitsForWhatIsInFlight) {
  ASSERT_TRUE(Ok(Connect()));
  image().DropCache();
  std::vector<Bytes> buffers(50, Bytes(100000, 'x'));
  for (size_t i = 0; i < buffers.size(); ++i) {
    ASSERT_TRUE(Ok(nbd_aio_pread(nbd(), buffers[i].data(), buffers[i].size(),
                                 i * 1000, Completion(nullptr, nullptr), 0)));
  }
  EXPECT_TRUE(Ok(nbd_shutdown(nbd(), 0)));
  EXPECT_TRUE(ExitedWith(WaitForExit(), kExitOk));
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_TRUE(SameBytes(buffers[i], Pattern(i * 1000, 100000))) << i;
  }
}

TEST_F(Libnbd, ShutdownThatAbandonsWhatIsPendingEndsTheServerWithSuccess) {
  ASSERT_TRUE(Ok(Connect()));
  std::vector<Bytes> buffers(50, Bytes(1 << 20, 'x'));
  for (size_t i = 0; i < buffers.size(); ++i) {
    ASSERT_TRUE(Ok(nbd_aio_pread(nbd(), buffers[i].data(), buffers[i].size(),
                                 i * 1000, Completion(nullptr, nullptr), 0)));
  }
  EXPECT_TRUE(Ok(nbd_shutdown(nbd(), LIBNBD_SHUTDOWN_ABANDON_PENDING)));
  EXPECT_TRUE(ExitedWith(WaitForExit(), kExitOk));
}

TEST_F(Libnbd, ClosingTheHandleWithoutADisconnectIsNoFault) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  ServerProcess::Setup setup;
  setup.arguments = {image().path()};
  setup.in = setup.out = fds[1];
  ServerProcess server(setup);
  close(fds[1]);
  Handle handle = NewHandle();
  ASSERT_TRUE(Ok(nbd_connect_socket(handle.get(), fds[0])));
  Bytes buffer(512, 'x');
  EXPECT_TRUE(Ok(nbd_pread(handle.get(), buffer.data(), buffer.size(), 0, 0)));
  handle.reset();
  EXPECT_TRUE(ExitedWith(server.WaitForExit(), kExitOk));
}

}  // namespace
