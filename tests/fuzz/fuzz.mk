# Fuzzing. `make check` gives each target its corpus once; the rest needs clang
# and is not part of it:
#   make fuzz            each target for FUZZ_SECONDS, on all processors
#   make fuzz-long       the same for long, and what it has covered
#   make fuzz-coverage   the lines of src/ that the corpus covers
#   make fuzz-corpus     the corpus anew, from the traffic of real clients

FUZZ_TARGETS = command_line environment export_file kept_copy negotiation option \
	partitions probe rules tls_files transmission
FUZZ_SECONDS = 60
FUZZ_LONG_SECONDS = 900

# The calls that simulation.cc, storage.cc, locks.cc and descriptors.cc take
# over.
fuzz_clock_calls = poll clock_gettime sched_yield
fuzz_file_calls = fallocate fdatasync fstat fstatfs ioctl lseek mincore mmap munmap \
	posix_fadvise pread \
	preadv preadv2 pwrite pwritev2 sync_file_range syscall
fuzz_clock_wrap = -Wl,--wrap=poll -Wl,--wrap=clock_gettime \
	-Wl,--wrap=sched_yield
fuzz_file_wrap = -Wl,--wrap=fallocate -Wl,--wrap=fdatasync -Wl,--wrap=fstat \
	-Wl,--wrap=fstatfs -Wl,--wrap=ioctl -Wl,--wrap=lseek -Wl,--wrap=mincore \
	-Wl,--wrap=mmap -Wl,--wrap=munmap -Wl,--wrap=posix_fadvise \
	-Wl,--wrap=pread -Wl,--wrap=preadv -Wl,--wrap=preadv2 \
	-Wl,--wrap=pwrite -Wl,--wrap=pwritev2 -Wl,--wrap=sync_file_range \
	-Wl,--wrap=syscall
fuzz_lock_calls = fcntl nanosleep syscall
fuzz_lock_wrap = -Wl,--wrap=fcntl -Wl,--wrap=nanosleep -Wl,--wrap=syscall
fuzz_descriptor_calls = close dup2 fcntl fstat getpeername getsockopt isatty \
	open shutdown
fuzz_descriptor_wrap = -Wl,--wrap=close -Wl,--wrap=dup2 -Wl,--wrap=fcntl \
	-Wl,--wrap=fstat -Wl,--wrap=getpeername -Wl,--wrap=getsockopt \
	-Wl,--wrap=isatty -Wl,--wrap=open -Wl,--wrap=shutdown

# Of the generator, what reads .export files and escapes what is in them.
fuzz_generator_sources = src/generator/careful_look.cc \
	src/generator/export_definition.cc \
	src/generator/export_file.cc src/generator/unit_text.cc

# Of nbdinetctl, what reads a server's answers.
fuzz_ctl_sources = src/ctl/export_probe.cc src/ctl/nbd_uri.cc

fuzz_programs = \
	tests/fuzz/command_line_replay \
	tests/fuzz/environment_replay \
	tests/fuzz/export_file_replay \
	tests/fuzz/kept_copy_replay \
	tests/fuzz/negotiation_replay \
	tests/fuzz/option_replay \
	tests/fuzz/partitions_replay \
	tests/fuzz/probe_replay \
	tests/fuzz/rules_replay \
	tests/fuzz/tls_files_replay \
	tests/fuzz/transmission_replay

if HAVE_GTEST
check_PROGRAMS += $(fuzz_programs) tests/fuzz/checker_test
TESTS += $(fuzz_programs) tests/fuzz/checker_test
endif

tests_fuzz_command_line_replay_SOURCES = tests/fuzz/command_line_fuzz.cc \
	tests/fuzz/replay_main.cc
tests_fuzz_environment_replay_SOURCES = tests/fuzz/environment_fuzz.cc \
	tests/fuzz/descriptors.cc tests/fuzz/descriptors.h \
	tests/fuzz/replay_main.cc
tests_fuzz_environment_replay_LDFLAGS = $(AM_LDFLAGS) $(fuzz_descriptor_wrap)
tests_fuzz_export_file_replay_SOURCES = tests/fuzz/export_file_fuzz.cc \
	tests/fuzz/replay_main.cc
tests_fuzz_kept_copy_replay_SOURCES = tests/fuzz/kept_copy_fuzz.cc \
	tests/fuzz/replay_main.cc
tests_fuzz_option_replay_SOURCES = tests/fuzz/option_fuzz.cc \
	tests/fuzz/replay_main.cc
tests_fuzz_partitions_replay_SOURCES = tests/fuzz/partitions_fuzz.cc \
	tests/fuzz/replay_main.cc
tests_fuzz_probe_replay_SOURCES = tests/fuzz/probe_fuzz.cc \
	$(fuzz_ctl_sources) tests/fuzz/replay_main.cc
tests_fuzz_rules_replay_SOURCES = tests/fuzz/rules_fuzz.cc \
	tests/fuzz/replay_main.cc
tests_fuzz_tls_files_replay_SOURCES = tests/fuzz/tls_files_fuzz.cc \
	tests/fuzz/replay_main.cc
tests_fuzz_negotiation_replay_SOURCES = tests/fuzz/negotiation_fuzz.cc \
	tests/fuzz/input.cc tests/fuzz/input.h \
	tests/fuzz/messages.cc tests/fuzz/messages.h \
	tests/fuzz/locks.cc tests/fuzz/locks.h \
	tests/fuzz/negotiation_checker.cc tests/fuzz/negotiation_checker.h \
	tests/fuzz/replay_main.cc \
	tests/fuzz/simulation.cc tests/fuzz/simulation.h tests/fuzz/sizes.h
tests_fuzz_negotiation_replay_LDFLAGS = $(AM_LDFLAGS) $(fuzz_clock_wrap) \
	$(fuzz_lock_wrap)
tests_fuzz_transmission_replay_SOURCES = tests/fuzz/transmission_fuzz.cc \
	tests/fuzz/input.cc tests/fuzz/input.h \
	tests/fuzz/messages.cc tests/fuzz/messages.h \
	tests/fuzz/replay_main.cc \
	tests/fuzz/simulation.cc tests/fuzz/simulation.h tests/fuzz/sizes.h \
	tests/fuzz/storage.cc tests/fuzz/storage.h \
	tests/fuzz/transmission_checker.cc tests/fuzz/transmission_checker.h \
	tests/fuzz/workers.cc
tests_fuzz_transmission_replay_LDFLAGS = $(AM_LDFLAGS) $(fuzz_clock_wrap) \
	$(fuzz_file_wrap)
tests_fuzz_checker_test_SOURCES = tests/fuzz/checker_test.cc \
	tests/fuzz/input.cc tests/fuzz/input.h \
	tests/fuzz/negotiation_checker.cc tests/fuzz/negotiation_checker.h \
	tests/fuzz/simulation.cc tests/fuzz/simulation.h tests/fuzz/sizes.h \
	tests/fuzz/storage.cc tests/fuzz/storage.h \
	tests/fuzz/transmission_checker.cc tests/fuzz/transmission_checker.h
tests_fuzz_checker_test_LDFLAGS = $(AM_LDFLAGS) $(fuzz_clock_wrap) \
	$(fuzz_file_wrap)

EXTRA_DIST += tests/fuzz/clang.mk tests/fuzz/corpus tests/fuzz/mutator.cc \
	tests/fuzz/nbd.dict tests/fuzz/partition_seeds.py tests/fuzz/record.py tests/fuzz/run.py

fuzz_build = +@$(MAKE) --no-print-directory -f $(srcdir)/tests/fuzz/clang.mk \
	CLANG='$(FUZZ_CLANG)' SRCDIR='$(srcdir)' \
	SOURCES='$(src_libnbdinetd_a_SOURCES) $(fuzz_generator_sources) $(fuzz_ctl_sources)' TARGETS='$(FUZZ_TARGETS)' \
	FLAGS='$(DEFS) $(CPPFLAGS) $(ABSL_CFLAGS) $(OPENSSL_CFLAGS) $(BLKID_CFLAGS)' \
	LIBRARIES='$(ABSL_LIBS) $(LIBS)' \
	WRAPPED_NEGOTIATION='$(fuzz_clock_calls) $(fuzz_lock_calls)' \
	WRAPPED_TRANSMISSION='$(fuzz_clock_calls) $(fuzz_file_calls)' \
	WRAPPED_ENVIRONMENT='$(fuzz_descriptor_calls)'
fuzz_run = /usr/bin/python3 $(srcdir)/tests/fuzz/run.py \
	--corpus=$(srcdir)/tests/fuzz/corpus --work=build-fuzz \
	--clang='$(FUZZ_CLANG)'

.PHONY: fuzz fuzz-clang fuzz-build fuzz-long fuzz-coverage-build fuzz-coverage fuzz-corpus
fuzz-build fuzz-coverage-build: fuzz-clang
fuzz-clang:
	@command -v $(FUZZ_CLANG) >/dev/null || { \
	  echo 'fuzzing needs $(FUZZ_CLANG): install the packages clang,' \
	    'libclang-rt-dev and llvm, or name another by FUZZ_CLANG='; \
	  exit 1; }
fuzz-build: Makefile
	$(fuzz_build) OUT=build-fuzz/fuzz MODE=fuzz
fuzz-coverage-build: Makefile
	$(fuzz_build) OUT=build-fuzz/coverage MODE=coverage
fuzz: fuzz-build
	$(fuzz_run) fuzz --seconds=$(FUZZ_SECONDS) $(FUZZ_TARGETS)
fuzz-coverage: fuzz-coverage-build
	$(fuzz_run) coverage --at-least=95 $(FUZZ_TARGETS)
fuzz-long: fuzz-build fuzz-coverage-build
	$(fuzz_run) fuzz --seconds=`if test '$(FUZZ_SECONDS)' = 60; then echo $(FUZZ_LONG_SECONDS); else echo $(FUZZ_SECONDS); fi` $(FUZZ_TARGETS)
	$(fuzz_run) coverage --found --at-least=95 $(FUZZ_TARGETS)
fuzz-corpus: all fuzz-build
	NBDINETD='$(abs_top_builddir)/src/nbdinetd' /usr/bin/python3 \
	  $(srcdir)/tests/fuzz/record.py build-fuzz/recorded
	$(fuzz_run) merge $(FUZZ_TARGETS)
