# The tests, all speaking TAP, run by 'make check'.
#
# A program's source is the file of its name with .cc. tests/**/foo_test.cc
# tests src/**/foo.cc; the others are named by what they prove, and drive the
# real program.

AM_TESTS_ENVIRONMENT = \
	NBDINETD='$(abs_top_builddir)/src/nbdinetd'; export NBDINETD; \
	NBDINETD_SRCDIR='$(abs_top_srcdir)'; export NBDINETD_SRCDIR; \
	NBDINETD_BUILDDIR='$(abs_top_builddir)'; export NBDINETD_BUILDDIR; \
	NBDINETD_TOOLS="$${NBDINETD_TOOLS:-$(abs_top_builddir)/.tools}"; \
	export NBDINETD_TOOLS; \
	LC_ALL=C.UTF-8; export LC_ALL;

TEST_EXTENSIONS = .py
LOG_COMPILER = /usr/bin/python3 $(srcdir)/tests/support/surroundings.py
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) \
	$(top_srcdir)/build-aux/tap-driver.sh
PY_LOG_DRIVER = $(LOG_DRIVER)
PY_LOG_COMPILER = /usr/bin/python3

AM_DEFAULT_SOURCE_EXT = .cc
AM_CPPFLAGS += -I$(top_srcdir)/tests $(GTEST_CFLAGS)

# Of one room each, on bytes.
unit_tests = \
	tests/access_test \
	tests/base/errors_test \
	tests/base/file_status_test \
	tests/base/log_test \
	tests/base/message_socket_test \
	tests/base/rate_limit_test \
	tests/base/signals_test \
	tests/base/time_span_test \
	tests/base/utf8_test \
	tests/bind_test \
	tests/engine/buffer_pool_test \
	tests/engine/task_test \
	tests/engine/workers_test \
	tests/export/block_device_test \
	tests/export/calls_under_way_test \
	tests/export/catalog_test \
	tests/export/directory_test \
	tests/export/exclusive_test \
	tests/export/export_test \
	tests/export/extents_test \
	tests/guards_test \
	tests/negotiation_test \
	tests/options_test \
	tests/protocol/nbd_error_test \
	tests/protocol/option_test \
	tests/protocol/reply_test \
	tests/protocol/request_test \
	tests/protocol/wire_test \
	tests/protocol/zero_blocks_test \
	tests/reply_sender_test \
	tests/sandbox/landlock_test \
	tests/sandbox/load_filter_test \
	tests/sandbox/privileges_test \
	tests/stream/channel_test \
	tests/stream/psk_file_test \
	tests/stream/spinner_test \
	tests/stream/stream_test \
	tests/zero_copy_test

# Of the real program, over a socket pair.
protocol_tests = \
	tests/handshake_test \
	tests/shutdown_test \
	tests/stream_test \
	tests/torture_test \
	tests/transmission_test

# Of the real program with clients, superservers and faults.
python_tests = \
	tests/activation_test.py \
	tests/architecture_test.py \
	tests/bench-smoke_test.py \
	tests/clients_test.py \
	tests/directory_exports_test.py \
	tests/ends_test.py \
	tests/exclusive_test.py \
	tests/faults_test.py \
	tests/feature_pairs_test.py \
	tests/file_systems_test.py \
	tests/handed_over_test.py \
	tests/hardening_test.py \
	tests/inherited_descriptors_test.py \
	tests/keepalive_test.py \
	tests/limits_test.py \
	tests/listen_units_test.py \
	tests/listener_load_test.py \
	tests/listener_test.py \
	tests/other_release_test.py \
	tests/sandbox_test.py \
	tests/secrets_test.py \
	tests/seed-activation_test.py \
	tests/seed-logging_test.py \
	tests/seed-systemd_test.py \
	tests/shared_flags_test.py \
	tests/stalled_daemons_test.py \
	tests/standalone_test.py \
	tests/superservers_test.py \
	tests/surroundings_test.py \
	tests/systemd_test.py \
	tests/timeouts_test.py \
	tests/tls_clients_test.py \
	tests/tls_test.py \
	tests/watchdog_test.py \
	tests/who_may_connect_test.py

check_PROGRAMS =
check_LIBRARIES =
TESTS = $(python_tests)

if HAVE_GTEST
check_LIBRARIES += tests/support/libsupport.a
check_PROGRAMS += $(unit_tests) $(protocol_tests)
TESTS += $(unit_tests) $(protocol_tests)
if HAVE_OPENSSL
check_PROGRAMS += tests/stream/tls_stream_test tests/tls_key_updates_test
TESTS += tests/stream/tls_stream_test tests/tls_key_updates_test
endif
if HAVE_LIBNBD
check_PROGRAMS += tests/libnbd_test
TESTS += tests/libnbd_test
endif
endif
if HAVE_FUSE3
check_PROGRAMS += tests/support/eio_fs
endif

# Its own constants and parsers, so that it can't share a mistake with src/.
tests_support_libsupport_a_SOURCES = \
	tests/support/image.cc tests/support/image.h \
	tests/support/peer.cc tests/support/peer.h \
	tests/support/server_process.cc tests/support/server_process.h \
	tests/support/session.cc tests/support/session.h \
	tests/support/tap_main.cc \
	tests/support/torture_client.cc tests/support/torture_client.h \
	tests/support/torture_disk.cc tests/support/torture_disk.h \
	tests/support/torture_model.cc tests/support/torture_model.h \
	tests/support/wire.cc tests/support/wire.h

LDADD = tests/support/libsupport.a src/libnbdinetd.a $(GTEST_LIBS) \
	$(ABSL_LIBS)
tests_stream_tls_stream_test_LDADD = $(LDADD) $(OPENSSL_LIBS)
tests_stream_tls_stream_test_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=setsockopt
tests_tls_key_updates_test_LDADD = $(LDADD) $(OPENSSL_LIBS)
tests_libnbd_test_LDADD = $(LDADD) $(LIBNBD_LIBS)
tests_support_eio_fs_SOURCES = tests/support/eio_fs.c
tests_support_eio_fs_CFLAGS = $(AM_CFLAGS) $(FUSE3_CFLAGS)
tests_support_eio_fs_LDADD = $(FUSE3_LIBS) -lpthread

EXTRA_DIST += $(python_tests) tests/conformance.md \
	tests/support/client_root.py tests/support/clients.py \
	tests/support/faults.py tests/support/file_systems.py \
	tests/support/harness.py tests/support/listening.py \
	tests/support/nbd_client.py \
	tests/support/private_systemd.py tests/support/surroundings.py \
	tests/support/tls.py \
	tests/support/fake_export.h tests/support/loop_device.h \
	tests/support/memory_stream.h tests/support/private_mount.h \
	tests/sandbox/child.h

check-local: all

# ---- Intruders ----

# The program with somebody else in it (tests/support/intruder.cc), who is not
# in src/nbdinetd: the linker puts it in place of the sandbox's steps.
check_PROGRAMS += tests/nbdinetd-intruder
tests_nbdinetd_intruder_SOURCES = src/main.cc tests/support/intruder.cc
tests_nbdinetd_intruder_LDADD = src/libnbdinetd.a $(ABSL_LIBS)
tests_nbdinetd_intruder_LDFLAGS = $(AM_LDFLAGS) $(STATIC_RUNTIME_LDFLAGS) \
	-Wl,--wrap=_ZN8nbdinetd7Sandbox5EnterEv \
	-Wl,--wrap=_ZN8nbdinetd7Sandbox7TightenEv

# ---- Faults ----

TESTS += tests/failing_calls_test.py
EXTRA_DIST += tests/failing_calls_test.py tests/support/failing_calls.py \
	tests/support/under_valgrind

# A library to preload; no libtool for it alone.
check_PROGRAMS += tests/support/faulty_calls.so
tests_support_faulty_calls_so_SOURCES = tests/support/faulty_calls.c
tests_support_faulty_calls_so_CFLAGS = $(WARNING_FLAGS) -fPIC
tests_support_faulty_calls_so_LDFLAGS = -shared
tests_support_faulty_calls_so_LDADD = -ldl

# What 'make check' does a sample of, or for half a minute. The environment, in
# one line for the shell, is that of the tests.
.PHONY: torture torture-file-systems faults-long check-sanitizers check-valgrind
torture: all
	$(MAKE) $(check_LIBRARIES) $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) \
	NBDINETD_TORTURE_SECONDS=$${NBDINETD_TORTURE_SECONDS:-600} \
	  tests/torture_test

torture-file-systems: all
	$(MAKE) $(check_LIBRARIES) $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) \
	NBDINETD_FILE_SYSTEMS_SECONDS=$${NBDINETD_FILE_SYSTEMS_SECONDS:-60} \
	  /usr/bin/python3 $(srcdir)/tests/file_systems_test.py

faults-long: all
	$(MAKE) $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) NBDINETD_FAULTS_ALL=1 \
	  /usr/bin/python3 $(srcdir)/tests/failing_calls_test.py

# Leaks and bad accesses, with and without faults, in a build of its own.
memory_tests = $(unit_tests) $(protocol_tests) tests/failing_calls_test.py
check-sanitizers:
	rm -rf sanitized
	$(MAKE) distdir distdir=sanitized
	cd sanitized && ./configure --enable-sanitizers && $(MAKE) && \
	  NBDINETD_TORTURE_SECONDS=$${NBDINETD_TORTURE_SECONDS:-60} \
	  NBDINETD_FAULTS_SECONDS=$${NBDINETD_FAULTS_SECONDS:-120} \
	  $(MAKE) check TESTS='$(memory_tests)'
	rm -rf sanitized

check-valgrind: all
	$(MAKE) $(check_LIBRARIES) $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) \
	NBDINETD_UNDER_VALGRIND="$$NBDINETD"; export NBDINETD_UNDER_VALGRIND; \
	NBDINETD=$(abs_top_srcdir)/tests/support/under_valgrind; \
	export NBDINETD; \
	NBDINETD_TORTURE_SECONDS=$${NBDINETD_TORTURE_SECONDS:-60} \
	  tests/torture_test && \
	NBDINETD_FAULTS_SECONDS=$${NBDINETD_FAULTS_SECONDS:-120} \
	  /usr/bin/python3 $(srcdir)/tests/failing_calls_test.py

include $(top_srcdir)/tests/fuzz/fuzz.mk
