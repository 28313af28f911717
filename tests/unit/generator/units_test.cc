// Which units an export has.
#include "generator/units.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "generator/output_directory.h"
#include "generator/socket_address.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

class UnitsTest : public testing::Test {
 protected:
  const std::string& folder() const { return temp_dir_.path(); }
  std::string path(const std::string& name) const {
    return absl::StrCat(folder(), "/", name);
  }

  absl::StatusOr<ExportUnits> Make(
      const std::string& text,
      ManagerScope scope = ManagerScope::kSystem) const {
    ExportFile file;
    file.sources = {"golden", "/etc/nbdinetd/golden.export", {}};
    const absl::Status parsed =
        ParseExportText(text, "golden.export", file.settings);
    EXPECT_TRUE(parsed.ok()) << parsed;
    const absl::StatusOr<ExportDefinition> definition =
        DefineExport(file, scope);
    if (!definition.ok()) return definition.status();
    return UnitMaker(scope).Make(*definition);
  }

  // The lines of the socket (0), the service (1) or the slice (2).
  std::vector<std::string> Lines(
      const std::string& text, size_t which,
      ManagerScope scope = ManagerScope::kSystem) const {
    const absl::StatusOr<ExportUnits> units = Make(text, scope);
    EXPECT_TRUE(units.ok()) << units.status();
    if (!units.ok()) return {};
    return absl::StrSplit(units->files[which].text, '\n');
  }

  static std::vector<std::string> With(const std::vector<std::string>& lines,
                                       const std::string& key) {
    std::vector<std::string> found;
    for (const std::string& line : lines) {
      if (absl::StartsWith(line, key + "=")) found.push_back(line);
    }
    return found;
  }

  const nbdtest::TempDir temp_dir_;
};

using Words = std::vector<std::string>;

TEST_F(UnitsTest, NamesFollowTheMode) {
  const ExportUnits units = Make("[Export]\nFile=/f\n").value();
  ASSERT_EQ(units.files.size(), 3u);
  EXPECT_EQ(units.files[0].name, "nbdinetd-golden.socket");
  EXPECT_EQ(units.files[1].name, "nbdinetd-golden@.service");
  EXPECT_EQ(units.files[2].name, "system-nbdinetd-golden.slice");
  const ExportUnits listener =
      Make("[Export]\nFile=/f\nMode=listener\n").value();
  ASSERT_EQ(listener.files.size(), 2u);
  EXPECT_EQ(listener.files[1].name, "nbdinetd-golden.service");
  for (const UnitFile& file : units.files) {
    EXPECT_TRUE(absl::StrContains(
        file.text, "\nSourcePath=/etc/nbdinetd/golden.export\n"));
    EXPECT_TRUE(absl::StrContains(file.text, "\nDocumentation=man:nbdinetd."));
    EXPECT_FALSE(absl::StrContains(file.text, "[Install]"));
  }
}

TEST_F(UnitsTest, TheCommandHasTheOptionsAndTheFile) {
  EXPECT_TRUE(absl::EndsWith(
      With(Lines("[Export]\nFile=/a b\nReadOnly=yes\nOptions=-v %n\n", 1),
           "ExecStart")[0],
      "/nbdinetd --readonly -v %n -- \"/a b\""));
  EXPECT_TRUE(absl::EndsWith(
      With(Lines("[Export]\nDirectory=/a b\n", 1), "ExecStart")[0],
      "/nbdinetd \"--directory=/a b\" "));
  const std::string listener =
      With(Lines("[Export]\nFile=/f\nMode=listener\nMaxConnections=5\n", 1),
           "ExecStart")[0];
  EXPECT_TRUE(absl::EndsWith(listener, " --max-connections=5 -- /f"))
      << listener;
  const Words none = {};
  for (const char* key : {"Environment", "EnvironmentFile"}) {
    EXPECT_EQ(With(Lines("[Export]\nFile=/f\n", 1), key), none);
  }
}

TEST_F(UnitsTest, TheSocketHasTheLimitsAndAddresses) {
  const Words lines = Lines(
      "[Export]\nFile=/f\nMaxConnections=5\nMaxConnectionsPerSource=2\n", 0);
  EXPECT_EQ(With(lines, "MaxConnections"), Words{"MaxConnections=5"});
  EXPECT_EQ(With(lines, "MaxConnectionsPerSource"),
            Words{"MaxConnectionsPerSource=2"});
  EXPECT_EQ(With(lines, "ListenStream"), Words{"ListenStream=10809"});
  EXPECT_EQ(With(lines, "SocketMode"), Words{});
  const Words others = Lines(
      "[Export]\nFile=/f\n[Socket]\nListenStream=1\nListenStream=/run/s\n", 0);
  EXPECT_EQ(With(others, "ListenStream"),
            (Words{"ListenStream=1", "ListenStream=/run/s"}));
  EXPECT_EQ(With(others, "SocketMode"), Words{"SocketMode=0660"});
}

TEST_F(UnitsTest, KeptCopiesSeeWhetherTheMachineWasRestarted) {
  const std::string text =
      "[Export]\nFile=/srv/f\nCow=keep\nCowKey=peer-address\nMode=listener\n";
  EXPECT_EQ(With(Lines(text, 1), "ProcSubset"), Words{"ProcSubset=all"});
  EXPECT_EQ(With(Lines(text, 1), "StateDirectory"),
            Words{"StateDirectory=nbdinetd/golden"});
  EXPECT_EQ(
      With(Lines("[Export]\nFile=/srv/f\nMode=listener\n", 1), "ProcSubset"),
      Words{"ProcSubset=pid"});
}

TEST_F(UnitsTest, PrivateCopiesHaveADirectoryThatTheServiceMayWriteTo) {
  const auto service = [&](const std::string& text) {
    return Lines("[Export]\nFile=/srv/f\nCow=discard\n" + text, 1);
  };
  for (const char* mode : {"", "Mode=listener\n"}) {
    const Words own = service(mode);
    EXPECT_EQ(With(own, "StateDirectory"),
              Words{"StateDirectory=nbdinetd/golden"});
    EXPECT_EQ(With(own, "StateDirectoryMode"),
              Words{"StateDirectoryMode=0700"});
    EXPECT_EQ(With(own, "ReadWritePaths"), Words{});
    EXPECT_EQ(
        With(service(absl::StrCat(mode, "CowDir=memory\n")), "StateDirectory"),
        Words{});
    const Words given = service(absl::StrCat(mode, "CowDir=/srv/copies\n"));
    EXPECT_EQ(With(given, "StateDirectory"), Words{});
    EXPECT_EQ(
        With(given, "RequiresMountsFor"),
        (Words{"RequiresMountsFor=/srv/f", "RequiresMountsFor=/srv/copies"}));
  }
  EXPECT_EQ(
      With(service("Mode=listener\nCowDir=/srv/copies\n"), "ReadWritePaths"),
      Words{"ReadWritePaths=-/srv/copies"});
  EXPECT_EQ(With(service("Mode=listener\nCowDir=/home/copies\n"), "BindPaths"),
            Words{"BindPaths=\"-/home/copies\""});
}

TEST_F(UnitsTest, TheServiceMayOpenThatDeviceAlone) {
  const auto devices = [&](const std::string& text) {
    const Words found = With(Lines("[Export]\n" + text, 2), "DeviceAllow");
    // The same without a slice.
    EXPECT_EQ(With(Lines("[Export]\nMode=listener\n" + text, 1), "DeviceAllow"),
              found);
    EXPECT_EQ(With(Lines("[Export]\n" + text, 1), "DeviceAllow"), Words{});
    return found;
  };
  EXPECT_EQ(With(Lines("[Export]\nFile=/f\n", 1), "Slice"),
            Words{"Slice=system-nbdinetd-golden.slice"});
  EXPECT_EQ(With(Lines("[Export]\nFile=/f\n", 2), "DevicePolicy"),
            Words{"DevicePolicy=closed"});
  EXPECT_EQ(devices("File=/f\n[Service]\nDeviceAllow=/dev/x\n"),
            Words{"DeviceAllow=/dev/x"});
  EXPECT_EQ(devices("File=/dev/vg0/a b\n"),
            Words{"DeviceAllow=\"/dev/vg0/a b\" rw"});
  EXPECT_EQ(devices("File=/dev/vg0/a\nReadOnly=yes\n"),
            Words{"DeviceAllow=/dev/vg0/a r"});
  EXPECT_EQ(devices("File=/missing/file\n"), Words{});
  EXPECT_EQ(devices("Directory=/dev/vg0\n"), Words{"DeviceAllow=block-* rw"});
  EXPECT_EQ(devices("Directory=/srv\n"), Words{});
  // A link, even to a device that isn't there yet.
  ASSERT_EQ(symlink("/dev/vg0/later", path("one").c_str()), 0);
  ASSERT_EQ(symlink("one", path("two").c_str()), 0);
  EXPECT_EQ(devices("File=" + path("two") + "\n"),
            Words{"DeviceAllow=/dev/vg0/later rw"});
  if (geteuid() != 0) return;
  ASSERT_EQ(mknod(path("node").c_str(), S_IFBLK | 0600, makedev(7, 9)), 0);
  EXPECT_EQ(devices("File=" + path("node") + "\n"),
            Words{"DeviceAllow=/dev/block/7:9 rw"});
}

TEST_F(UnitsTest, AnotherSliceLeavesThePolicyWithTheService) {
  const std::string text = "[Export]\nFile=/dev/x\n[Service]\nSlice=my.slice\n";
  EXPECT_EQ(Make(text).value().files.size(), 2u);  // no slice of its own
  const Words lines = Lines(text + "DeviceAllow=/dev/y r\n", 1);
  EXPECT_EQ(With(lines, "Slice"), Words{"Slice=my.slice"});
  EXPECT_EQ(With(lines, "DevicePolicy"), Words{"DevicePolicy=closed"});
  EXPECT_EQ(With(lines, "IPAddressDeny"), Words{"IPAddressDeny=any"});
  EXPECT_EQ(With(lines, "DeviceAllow"),
            (Words{"DeviceAllow=/dev/x rw", "DeviceAllow=/dev/y r"}));
  // A user's own manager can't have these settings.
  EXPECT_EQ(With(Lines(text, 1, ManagerScope::kUser), "DevicePolicy"), Words{});
}

TEST_F(UnitsTest, LinksOfOthersOpenNoDevice) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_EQ(symlink("/dev/vg0/x", path("link").c_str()), 0);
  ASSERT_EQ(lchown(path("link").c_str(), 1234, 1234), 0);
  for (const char* mode : {"connection", "listener"}) {
    const ExportUnits units = Make(absl::StrCat("[Export]\nFile=", path("link"),
                                                "\nMode=", mode, "\n"))
                                  .value();
    for (const UnitFile& file : units.files) {
      EXPECT_FALSE(absl::StrContains(file.text, "vg0")) << file.text;
    }
  }
}

TEST_F(UnitsTest, TlsFilesAreCredentials) {
  // A list on a file system that isn't mounted yet.
  ASSERT_EQ(symlink("/missing/crl", path("ca-crl.pem").c_str()), 0);
  const std::string text =
      "[Export]\nFile=/f\nTLSCertificates=" + folder() + "\n";
  // Without a certificate, it is perhaps a mount point where nothing is
  // mounted.
  EXPECT_EQ(With(Lines(text, 1), "LoadCredential"), Words{});
  std::ofstream(path("server-cert.pem")) << "x";
  EXPECT_EQ(With(Lines(text, 1), "LoadCredential"),
            (Words{"LoadCredential=server-cert.pem:" + path("server-cert.pem"),
                   "LoadCredential=server-key.pem:" + path("server-key.pem"),
                   "LoadCredential=ca-crl.pem:" + path("ca-crl.pem")}));
  EXPECT_TRUE(
      absl::StrContains(With(Lines(text, 1), "ExecStart")[0],
                        " --tls-certificates=${CREDENTIALS_DIRECTORY} "));
  // What is in a missing directory can't be known.
  const Words missing =
      Lines("[Export]\nFile=/f\nTLSCertificates=/missing\n", 1);
  EXPECT_EQ(With(missing, "LoadCredential"), Words{});
  EXPECT_TRUE(absl::StrContains(With(missing, "ExecStart")[0],
                                " --tls-certificates=/missing "));
  const Words keys = Lines("[Export]\nFile=/f\nTLSPreSharedKeys=/a\"1%\n", 1);
  EXPECT_EQ(With(keys, "LoadCredential"),
            Words{"LoadCredential=keys.psk:/a\"1%%"});
  EXPECT_TRUE(
      absl::StrContains(With(keys, "ExecStart")[0],
                        " --tls-psk=${CREDENTIALS_DIRECTORY}/keys.psk "));
  // A user's own manager has no more rights than the user.
  const Words of_user = Lines(text, 1, ManagerScope::kUser);
  EXPECT_EQ(With(of_user, "LoadCredential"), Words{});
  EXPECT_EQ(With(of_user, "CapabilityBoundingSet"), Words{});
  EXPECT_EQ(With(of_user, "Slice"), Words{});
  EXPECT_EQ(With(of_user, "NoNewPrivileges"), Words{"NoNewPrivileges=yes"});
}

TEST_F(UnitsTest, TheRulesAreReadWhereTheyAre) {
  const Words service =
      Lines("[Export]\nFile=/f\nRules=/etc/nbdinetd/my rules\n", 1);
  EXPECT_TRUE(absl::StrContains(With(service, "ExecStart")[0],
                                " \"--rules=/etc/nbdinetd/my rules\" "));
  EXPECT_EQ(With(service, "RequiresMountsFor"),
            (Words{"RequiresMountsFor=/f",
                   "RequiresMountsFor=\"/etc/nbdinetd/my rules\""}));
  const auto seen = [&](const std::string& rules, const std::string& key) {
    return With(Lines("[Export]\nMode=listener\nFile=/srv/f\nReadOnly=yes\n"
                      "Rules=" +
                          rules + "\n",
                      1),
                key);
  };
  // With their directory, so that a file that replaces them is seen.
  EXPECT_EQ(seen("/home/a/rules", "BindReadOnlyPaths").back(),
            "BindReadOnlyPaths=\"-/home/a\"");
  EXPECT_EQ(seen("/run/rules", "BindReadOnlyPaths").back(),
            "BindReadOnlyPaths=\"-/run/rules\"");
  EXPECT_EQ(seen("/etc/nbdinetd/rules", "BindReadOnlyPaths").size(), 1u);
  EXPECT_EQ(seen("/etc/nbdinetd/rules", "ReadWritePaths"), Words{});
  // The copies that they may give.
  EXPECT_EQ(seen("/etc/rules\nCowDir=/srv/copies", "ReadWritePaths"),
            Words{"ReadWritePaths=-/srv/copies"});
}

TEST_F(UnitsTest, TheFileSystemsOfALinkAndItsTargetAreRequired) {
  ASSERT_EQ(symlink("/far/a b", path("link").c_str()), 0);
  ASSERT_EQ(symlink("/dev/vg0/x", path("device").c_str()), 0);
  const auto mounts = [&](const std::string& file) {
    return With(Lines("[Export]\nFile=" + file + "\n", 1), "RequiresMountsFor");
  };
  EXPECT_EQ(mounts(path("link")), (Words{"RequiresMountsFor=" + path("link"),
                                         "RequiresMountsFor=\"/far/a b\""}));
  EXPECT_EQ(mounts(path("device")),
            Words{"RequiresMountsFor=" + path("device")});
}

TEST_F(UnitsTest, AListenerSeesItsFile) {
  const auto seen = [&](const std::string& text, const std::string& key) {
    return With(Lines("[Export]\nMode=listener\n" + text, 1), key);
  };
  EXPECT_EQ(seen("File=/data/a\n", "ReadWritePaths"),
            Words{"ReadWritePaths=-/data"});
  EXPECT_EQ(seen("File=/data/a b/c d\n", "ReadWritePaths"),
            Words{"ReadWritePaths=\"-/data/a b\""});
  EXPECT_EQ(seen("Directory=/data/a\n", "ReadWritePaths"),
            Words{"ReadWritePaths=-/data/a"});
  // Not the whole system.
  EXPECT_EQ(seen("File=/a\n", "ReadWritePaths"), Words{"ReadWritePaths=-/a"});
  EXPECT_EQ(seen("File=/data/a\nReadOnly=yes\n", "ReadWritePaths"), Words{});
  EXPECT_EQ(seen("File=/home/a\n", "BindPaths"),
            Words{"BindPaths=\"-/home/a\""});
  EXPECT_EQ(seen("File=/home/a\nReadOnly=yes\n", "BindReadOnlyPaths").back(),
            "BindReadOnlyPaths=\"-/home/a\"");
  // systemd can't bind these.
  for (const auto& [path, setting] : std::map<std::string, std::string>{
           {"Directory=/home", "ProtectHome"},
           {"Directory=/root", "ProtectHome"},
           {"Directory=/tmp", "PrivateTmp"},
           {"Directory=/var/tmp", "PrivateTmp"},
           {"File=/home/a\"b", "ProtectHome"},
           {"File=/root/a\tb", "ProtectHome"},
           {"Directory=/run", "TemporaryFileSystem"}}) {
    EXPECT_EQ(seen(path + "\n", "BindPaths"), Words{}) << path;
    EXPECT_EQ(seen(path + "\n", setting), Words{}) << path;
    EXPECT_EQ(seen(path + "\n", "ReadWritePaths").size(), 1u) << path;
  }
  EXPECT_EQ(seen("File=/home/a\n", "ProtectHome").size(), 1u);
  EXPECT_EQ(seen("Directory=/home2\n", "BindPaths"), Words{});
}

TEST_F(UnitsTest, InstallBecomesLinks) {
  const auto links = [&](const std::string& install,
                         const std::string& more = "") {
    Words words;
    const auto units =
        Make("[Export]\nFile=/f\n" + more + "[Install]\n" + install);
    EXPECT_TRUE(units.ok()) << units.status();
    for (const UnitLink& link : units->links) {
      words.push_back(absl::StrCat(link.name, " ", link.target));
    }
    return words;
  };
  const std::string socket = "nbdinetd-golden.socket";
  EXPECT_EQ(links(""),
            Words{"sockets.target.wants/" + socket + " ../" + socket});
  EXPECT_EQ(links("", "Enabled=no\n"), Words{});
  EXPECT_EQ(links("WantedBy=a.target b.service\nRequiredBy=c.target\n"),
            (Words{"a.target.wants/" + socket + " ../" + socket,
                   "b.service.wants/" + socket + " ../" + socket,
                   "c.target.requires/" + socket + " ../" + socket}));
  EXPECT_EQ(links("WantedBy=a.target\nWantedBy=\n"), Words{});
  EXPECT_EQ(links("Alias=disk.socket\n"),
            (Words{"disk.socket " + socket,
                   "sockets.target.wants/" + socket + " ../" + socket}));
  for (const char* wrong :
       {"WantedBy=../../x.target", "WantedBy=x", "WantedBy=.target",
        "Alias=x.service", "Also=x.socket", "Alias=nbdinetd.socket",
        "Alias=nbdinetd-listen.socket", "Alias=a.socket nbdinetd-b.socket"}) {
    EXPECT_FALSE(
        Make(absl::StrCat("[Export]\nFile=/f\n[Install]\n", wrong, "\n")).ok())
        << wrong;
  }
}

bool Collide(const char* a, const char* b) {
  const bool collide = SocketAddress(a).CollidesWith(SocketAddress(b));
  EXPECT_EQ(SocketAddress(b).CollidesWith(SocketAddress(a)), collide) << a << b;
  return collide;
}

TEST_F(UnitsTest, AddressesCollide) {
  EXPECT_TRUE(Collide("10809", "10809"));
  EXPECT_TRUE(Collide("10809", "127.0.0.1:10809"));
  EXPECT_TRUE(Collide("[::]:1", "127.0.0.1:1"));
  EXPECT_TRUE(Collide("0.0.0.0:1", "127.0.0.1:1"));
  EXPECT_TRUE(Collide("0.0.0.0:1", "1"));
  EXPECT_TRUE(Collide("[2001:db8::1]:1", "[2001:db8:0::1]:1"));
  EXPECT_TRUE(Collide("/run/s", "/run/s"));
  EXPECT_FALSE(Collide("0.0.0.0:1", "[::1]:1"));
  EXPECT_FALSE(Collide("127.0.0.1:1", "127.0.0.2:1"));
  EXPECT_FALSE(Collide("1", "2"));
  EXPECT_FALSE(Collide("/run/s", "/run/t"));
  EXPECT_FALSE(Collide("vsock::1", "1"));
}

TEST_F(UnitsTest, FilesAppearWholeAndReplaceOthers) {
  const OutputDirectory output = OutputDirectory::Open(folder()).value();
  for (const char* text : {"first and longer", "second"}) {
    ASSERT_TRUE(output.Write(UnitFile{"a.socket", text}).ok());
    ASSERT_TRUE(
        output.Write(UnitLink{"x.target.wants/a.socket", "../a.socket"}).ok());
    std::string read;
    std::getline(std::ifstream(path("x.target.wants/a.socket")), read);
    EXPECT_EQ(read, text);
  }
  // Nothing is left beside them.
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    (void)entry;
    ++count;
  }
  EXPECT_EQ(count, 2u);
  EXPECT_FALSE(output.Write(UnitFile{"missing/a.socket", ""}).ok());
  EXPECT_FALSE(OutputDirectory::Open(path("missing")).ok());
}

TEST_F(UnitsTest, AGeneratorLeavesTheFilesOfAnotherOne) {
  // Of a generator that has the same process id, in another PID namespace.
  const std::string other =
      path(absl::StrCat(".nbdinetd-generator.", getpid()));
  std::ofstream(other) << "other";
  std::ofstream(other + ".0") << "other";
  const OutputDirectory output = OutputDirectory::Open(folder()).value();
  EXPECT_EQ(output.Write(UnitFile{"a.socket", "text"}), absl::OkStatus());
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(output.Write(UnitLink{"b.socket", "a.socket"}), absl::OkStatus());
  }
  EXPECT_FALSE(output.Write(UnitFile{"missing/a.socket", ""}).ok());
  EXPECT_TRUE(std::filesystem::exists(other));
  EXPECT_TRUE(std::filesystem::exists(other + ".0"));
  EXPECT_FALSE(std::filesystem::exists(other + ".1"));
}

TEST_F(UnitsTest, TwoGeneratorsWriteAtOnce) {
  // Both have the names of temporary files that this process has chosen.
  const OutputDirectory output = OutputDirectory::Open(folder()).value();
  const auto write = [&](char letter) {
    const std::string text(10000, letter);
    for (int i = 0; i < 1000; ++i) {
      if (!output.Write(UnitFile{"a.socket", text}).ok() ||
          !output.Write(UnitLink{"b.socket", "a.socket"}).ok()) {
        return false;
      }
    }
    return true;
  };
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(write('c') ? 0 : 1);
  EXPECT_TRUE(write('p'));
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  std::string text;
  std::getline(std::ifstream(path("b.socket")), text);
  EXPECT_EQ(text, std::string(10000, text[0]));
}

}  // namespace
}  // namespace nbdinetd
