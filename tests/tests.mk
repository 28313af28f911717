# The tests, all speaking TAP, run by 'make check'.
#
# tests/unit/ mirrors src/, and is one program; elsewhere a program's source is the
# file of its name with .cc. The others are named by what they prove, and drive
# the real program.

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

# Of one room each, on bytes: one program.
unit_sources = \
	tests/unit/access/client_rules_test.cc \
	tests/unit/access/glob_test.cc \
	tests/unit/access/ruled_catalog_test.cc \
	tests/unit/access/subject_pattern_test.cc \
	tests/unit/base/amounts_test.cc \
	tests/unit/base/edit_distance_test.cc \
	tests/unit/base/byte_size_test.cc \
	tests/unit/base/errors_test.cc \
	tests/unit/base/file_status_test.cc \
	tests/unit/base/histogram_test.cc \
	tests/unit/base/json_test.cc \
	tests/unit/base/limit_signal_test.cc \
	tests/unit/base/log_file_test.cc \
	tests/unit/base/log_test.cc \
	tests/unit/base/message_socket_test.cc \
	tests/unit/base/rate_limit_test.cc \
	tests/unit/base/signals_test.cc \
	tests/unit/base/statistics_page_test.cc \
	tests/unit/base/time_span_test.cc \
	tests/unit/base/utf8_test.cc \
	tests/unit/cli/check_asked_test.cc \
	tests/unit/cli/export_size_test.cc \
	tests/unit/cli/open_served_test.cc \
	tests/unit/cli/option_table_test.cc \
	tests/unit/cli/options_test.cc \
	tests/unit/cli/unit_hints_test.cc \
	tests/unit/completions/completions_test.cc tests/unit/completions/offered.h \
	tests/unit/export/base_lock_test.cc \
	tests/unit/export/image_lock_test.cc \
	tests/unit/export/block_device_test.cc \
	tests/unit/export/block_map_test.cc \
	tests/unit/export/blocks_test.cc \
	tests/unit/export/cache_modes_test.cc \
	tests/unit/export/calls_under_way_test.cc \
	tests/unit/export/catalog_test.cc \
	tests/unit/export/coherence_test.cc \
	tests/unit/export/copy_on_write_test.cc \
	tests/unit/export/direct_test.cc \
	tests/unit/export/directory_test.cc \
	tests/unit/export/exclusive_test.cc \
	tests/unit/export/export_test.cc \
	tests/unit/export/extents_test.cc \
	tests/unit/export/ignored_holes_test.cc \
	tests/unit/export/kept_copy_test.cc \
	tests/unit/export/kept_header_test.cc \
	tests/unit/export/kept_merge_test.cc \
	tests/unit/export/layers_test.cc \
	tests/unit/export/mount_table_test.cc \
	tests/unit/export/page_cache_test.cc \
	tests/unit/export/storage_promises_test.cc \
	tests/unit/generator/careful_look_test.cc \
	tests/unit/generator/export_definition_test.cc \
	tests/unit/generator/export_file_test.cc \
	tests/unit/generator/generated_exports_test.cc \
	tests/unit/generator/unit_text_test.cc \
	tests/unit/generator/units_test.cc \
	tests/unit/negotiation/negotiation_test.cc \
	tests/unit/negotiation/option_handlers_test.cc \
	tests/unit/negotiation/skip_handshake_test.cc \
	tests/unit/partition/partition_name_test.cc \
	tests/unit/partition/partition_table_test.cc \
	tests/unit/partition/table_answer_test.cc \
	tests/unit/partition/table_reader_test.cc \
	tests/unit/protocol/client_test.cc \
	tests/unit/protocol/nbd_error_test.cc \
	tests/unit/protocol/option_test.cc \
	tests/unit/protocol/reply_test.cc \
	tests/unit/protocol/request_test.cc \
	tests/unit/protocol/transmission_flags_test.cc \
	tests/unit/protocol/wire_test.cc \
	tests/unit/protocol/zero_blocks_test.cc \
	tests/unit/sandbox/landlock_test.cc \
	tests/unit/sandbox/load_filter_test.cc \
	tests/unit/sandbox/privileges_test.cc \
	tests/unit/server/access_test.cc \
	tests/unit/server/bind_test.cc \
	tests/unit/server/bounded_accept_test.cc \
	tests/unit/server/peer_unit_test.cc \
	tests/unit/stream/channel_test.cc \
	tests/unit/stream/psk_file_test.cc \
	tests/unit/stream/spinner_test.cc \
	tests/unit/stream/stall_watch_test.cc \
	tests/unit/stream/stream_test.cc \
	tests/unit/transmission/answered_requests_test.cc \
	tests/unit/transmission/buffer_pool_test.cc \
	tests/unit/transmission/drain_test.cc \
	tests/unit/transmission/guards_test.cc \
	tests/unit/transmission/histograms_test.cc \
	tests/unit/transmission/long_requests_test.cc \
	tests/unit/transmission/pacer_test.cc \
	tests/unit/transmission/read_replies_test.cc \
	tests/unit/transmission/reply_sender_test.cc \
	tests/unit/transmission/task_test.cc \
	tests/unit/transmission/way_choice_test.cc \
	tests/unit/transmission/workers_test.cc \
	tests/unit/transmission/write_receiver_test.cc \
	tests/unit/transmission/zero_copy_test.cc

unit_tests = tests/unit/unit_test
tests_unit_unit_test_SOURCES = $(unit_sources) tests/unit/sandbox/child.h \
	tests/unit/export/recorder.cc tests/unit/export/recorder.h
tests_unit_unit_test_LDADD = src/libcompletions.a $(LDADD)
tests_unit_unit_test_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=fallocate \
	-Wl,--wrap=pwrite -Wl,--wrap=pwritev2 -Wl,--wrap=fdatasync \
	-Wl,--wrap=fsync -Wl,--wrap=futimens
if HAVE_OPENSSL
tests_unit_unit_test_SOURCES += tests/unit/stream/tls_client_test.cc \
	tests/unit/stream/tls_stream_test.cc
tests_unit_unit_test_LDADD += $(OPENSSL_LIBS)
tests_unit_unit_test_LDFLAGS += -Wl,--wrap=setsockopt
endif

# Half of the time of the build is these tests', whose own speed matters little.
# Without optimization they build twice as fast; the program under test has it.
tests/unit/%.o tests/protocol/%.o: CXXFLAGS += -O0 -U_FORTIFY_SOURCE

# Of the real program, over a socket pair.
protocol_tests = \
	tests/protocol/block_size_test \
	tests/protocol/drain_test \
	tests/protocol/extended_headers_test \
	tests/protocol/handshake_test \
	tests/protocol/negotiated_test \
	tests/protocol/shutdown_test \
	tests/protocol/stream_test \
	tests/protocol/transmission_test

torture_tests = tests/torture/torture_test

if HAVE_LIBSYSTEMD
tests_unit_unit_test_SOURCES += \
	tests/unit/base/libsystemd_test.cc \
	tests/unit/ctl/command_line_test.cc \
	tests/unit/ctl/copy_files_test.cc \
	tests/unit/ctl/exec_start_test.cc \
	tests/unit/ctl/export_probe_test.cc \
	tests/unit/ctl/json_reader_test.cc \
	tests/unit/ctl/live_statistics_test.cc \
	tests/unit/ctl/metrics_test.cc \
	tests/unit/ctl/nbd_uri_test.cc \
	tests/unit/ctl/peer_pattern_test.cc \
	tests/unit/ctl/rate_meter_test.cc \
	tests/unit/ctl/readable_test.cc \
	tests/unit/ctl/status_text_test.cc \
	tests/unit/ctl/table_test.cc \
	tests/unit/ctl/time_argument_test.cc
tests_unit_unit_test_LDADD += src/libcompletions.a src/libctl.a src/libgenerator.a \
	src/libnbdinetd.a $(ABSL_LIBS) $(LIBSYSTEMD_LIBS)
ctl_tests = tests/system/pid1_nbdinetctl_test.py
endif

# Of the real program with clients, superservers and faults.
python_tests = \
	tests/system/activation_test.py \
	tests/system/bench_smoke_test.py \
	tests/system/boot_storm_test.py \
	tests/system/cache_test.py \
	tests/system/check_test.py \
	tests/system/clients_test.py \
	tests/system/command_line_test.py \
	tests/system/completions_test.py \
	tests/system/cow_test.py \
	tests/system/kept_copies_test.py \
	tests/system/directory_exports_test.py \
	tests/system/document_settings_test.py \
	tests/system/documents_test.py \
	tests/system/distance_test.py \
	tests/system/ends_test.py \
	tests/system/drain_test.py \
	tests/system/exclusive_test.py \
	tests/system/faults_test.py \
	tests/system/feature_pairs_access_test.py \
	tests/system/feature_pairs_limits_test.py \
	tests/system/feature_pairs_test.py \
	tests/system/from_a_program_test.py \
	tests/system/generator_test.py \
	tests/system/handed_over_test.py \
	tests/system/hardening_test.py \
	tests/system/image_lock_test.py \
	tests/system/inherited_descriptors_test.py \
	tests/system/journal_messages_test.py \
	tests/system/keepalive_test.py \
	tests/system/limits_test.py \
	tests/system/listen_units_test.py \
	tests/system/listener_load_test.py \
	tests/system/listener_test.py \
	tests/system/manual_examples_test.py \
	tests/system/missing_calls_test.py \
	tests/system/negotiated_test.py \
	tests/system/old_kernels_test.py \
	tests/system/partitions_test.py \
	tests/system/parts_test.py \
	tests/system/storage_promises_test.py \
	tests/system/other_release_test.py \
	tests/system/peer_documents_test.py \
	tests/system/probe_test.py \
	tests/system/probe_tls_test.py \
	tests/system/pid1_boot_test.py \
	tests/system/pid1_documents_test.py \
	tests/system/pid1_exports_test.py \
	tests/system/pid1_journal_test.py \
	tests/system/pid1_units_test.py \
	$(ctl_tests) \
	tests/system/rules_table_test.py \
	tests/system/rules_test.py \
	tests/system/sandbox_test.py \
	tests/system/secrets_test.py \
	tests/system/service_page_activation_test.py \
	tests/system/service_page_logging_test.py \
	tests/system/service_page_systemd_test.py \
	tests/system/shared_flags_test.py \
	tests/system/stable_interface_test.py \
	tests/system/stalled_daemons_test.py \
	tests/system/standalone_test.py \
	tests/system/superservers_test.py \
	tests/system/statistics_test.py \
	tests/system/surroundings_test.py \
	tests/system/systemd_test.py \
	tests/system/timeouts_test.py \
	tests/system/transfer_limits_test.py \
	tests/system/tls_clients_test.py \
	tests/system/tls_test.py \
	tests/system/watchdog_test.py \
	tests/system/who_may_connect_test.py \
	tests/torture/file_systems_test.py \
	tests/unit/architecture_test.py \
	tests/unit/bench_figures_test.py \
	tests/unit/formatting_test.py \
	tests/unit/manual_test.py \
	tests/unit/packaging_test.py

check_PROGRAMS =
check_LIBRARIES =
TESTS = $(python_tests)

if HAVE_GTEST
check_LIBRARIES += tests/support/libsupport.a
check_PROGRAMS += $(unit_tests) $(protocol_tests) $(torture_tests)
TESTS += $(unit_tests) $(protocol_tests) $(torture_tests)
if HAVE_OPENSSL
check_PROGRAMS += tests/protocol/tls_key_updates_test
TESTS += tests/protocol/tls_key_updates_test
endif
if HAVE_LIBNBD
check_PROGRAMS += tests/system/libnbd_test
TESTS += tests/system/libnbd_test
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
	tests/support/signalled_session.h \
	tests/support/tap_main.cc \
	tests/support/torture_client.cc tests/support/torture_client.h \
	tests/support/torture_disk.cc tests/support/torture_disk.h \
	tests/support/torture_model.cc tests/support/torture_model.h \
	tests/support/wire.cc tests/support/wire.h

LDADD = tests/support/libsupport.a src/libgenerator.a src/libnbdinetd.a \
	$(GTEST_LIBS) \
	$(ABSL_LIBS)
tests_protocol_tls_key_updates_test_LDADD = $(LDADD) $(OPENSSL_LIBS)
tests_system_libnbd_test_LDADD = $(LDADD) $(LIBNBD_LIBS)
tests_support_eio_fs_SOURCES = tests/support/eio_fs.c
tests_support_eio_fs_CFLAGS = $(AM_CFLAGS) $(FUSE3_CFLAGS)
tests_support_eio_fs_LDADD = $(FUSE3_LIBS) -lpthread

EXTRA_DIST += $(python_tests) tests/conformance.md \
	tests/system/pid1_nbdinetctl_test.py tests/support/nbdinetctl_schema.json \
	tests/support/document_checks.py tests/support/documents.py \
	tests/support/printed.py tests/support/sessions.py \
	tests/support/stable_interface.json tests/support/stable_interface.py \
	tests/support/client_root.py tests/support/clients.py \
	tests/support/far_client.py tests/support/faults.py \
	tests/support/feature_pairs.py \
	tests/support/file_systems.py \
	tests/support/harness.py tests/support/intruder.py \
	tests/support/kept_headers.py tests/support/limit_signals.py \
	tests/support/listening.py \
	tests/support/nbd_client.py tests/support/partition_tables.py \
	tests/support/pid1 tests/support/pid1.py \
	tests/support/private_systemd.py tests/support/probing.py \
	tests/support/rules.py \
	tests/support/surroundings.py \
	tests/support/tls.py \
	tests/support/extent.h tests/support/fake_export.h \
	tests/support/loop_device.h \
	tests/support/memory_stream.h tests/support/plain_tls.h \
	tests/support/private_mount.h \
	tests/support/without_calls.h

check-local: all

# What one runs between two edits.
quick_tests = $(unit_tests) $(protocol_tests) tests/unit/architecture_test.py \
	tests/unit/formatting_test.py tests/unit/manual_test.py \
	tests/unit/packaging_test.py
.PHONY: check-quick
check-quick:
	$(MAKE) check TESTS='$(quick_tests)' \
	  check_PROGRAMS='$(unit_tests) $(protocol_tests)'

# ---- Older kernels ----

check_PROGRAMS += bench/as_kernel
bench_as_kernel_SOURCES = bench/as_kernel.c
bench_as_kernel_CFLAGS = $(WARNING_FLAGS)
bench_as_kernel_LDADD =
bench_as_kernel_LDFLAGS =

# ---- Networks with distance ----

check_PROGRAMS += bench/link
bench_link_SOURCES = bench/link.c
bench_link_CFLAGS = $(WARNING_FLAGS)
bench_link_LDADD =
bench_link_LDFLAGS =

# ---- A machine of one's own ----

# Each file boots an emulated machine; not part of 'make check'.
vm_tests = \
	tests/vm/device_mapper_test.py \
	tests/vm/export_limits_test.py \
	tests/vm/image_lock_test.py \
	tests/vm/kernel_client_test.py \
	tests/vm/kernel_tls_test.py \
	tests/vm/nfs_test.py \
	tests/vm/power_cut_test.py \
	tests/vm/reconnect_test.py

EXTRA_DIST += $(vm_tests) tests/vm/image.py tests/vm/machine.py \
	tests/vm/nbd_netlink.py tests/vm/two_hosts.py \
	tests/vm/guest/init tests/vm/guest/run tests/vm/guest/vm.service

.PHONY: check-vm check-power-cuts
check-vm: all
	$(AM_TESTS_ENVIRONMENT) /usr/bin/python3 -B $(srcdir)/tests/vm/image.py
	$(MAKE) check TESTS='$(vm_tests)' check_PROGRAMS= check_LIBRARIES=

# ---- A cluster of one's own ----

# Each file starts a Ceph cluster and hosts that mount its file system; not part
# of 'make check'.
cluster_tests = \
	tests/cluster/coherence_test.py \
	tests/cluster/exclusion_test.py \
	tests/cluster/failover_test.py \
	tests/cluster/kernel_cephfs_test.py

if HAVE_GTEST
cluster_programs = $(torture_tests)
endif

EXTRA_DIST += $(cluster_tests) tests/cluster/ceph.py tests/cluster/hosts.py

.PHONY: check-cluster
check-cluster: all
	$(MAKE) check TESTS='$(cluster_tests)' \
	  check_PROGRAMS='$(cluster_programs)' check_LIBRARIES=

# As many power cuts as tell something of rare moments.
check-power-cuts:
	NBDINETD_POWER_CUTS=20 $(MAKE) check-vm vm_tests=tests/vm/power_cut_test.py

# Two hundred servers that are killed while their client writes to its kept copy,
# and as many merges.
.PHONY: check-kept-copies
check-kept-copies: all
	NBDINETD_KILLS=200 $(AM_TESTS_ENVIRONMENT) /usr/bin/python3 -B \
	  $(srcdir)/tests/system/kept_copies_test.py 'kill -9'

# ---- Intruders ----

# The program with somebody else in it (tests/support/intruder.cc), who is not
# in src/nbdinetd: the linker puts it in place of the sandbox's steps.
check_PROGRAMS += tests/nbdinetd-intruder
tests_nbdinetd_intruder_SOURCES = src/main.cc tests/support/intruder.cc
tests_nbdinetd_intruder_LDADD = src/libnbdinetd.a $(ABSL_LIBS)
tests_nbdinetd_intruder_LDFLAGS = $(AM_LDFLAGS) $(STATIC_RUNTIME_LDFLAGS) \
	-Wl,--wrap=_ZN8nbdinetd7Sandbox5EnterEv \
	-Wl,--wrap=_ZN8nbdinetd7Sandbox7TightenEv \
	-Wl,--wrap=_ZN8nbdinetd17EnterTableSandboxEv

# ---- Faults ----

TESTS += tests/system/failing_calls_test.py
EXTRA_DIST += tests/system/failing_calls_test.py tests/support/failing_calls.py \
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
	  tests/torture/torture_test

torture-file-systems: all
	$(MAKE) $(check_LIBRARIES) $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) \
	NBDINETD_FILE_SYSTEMS_SECONDS=$${NBDINETD_FILE_SYSTEMS_SECONDS:-60} \
	  /usr/bin/python3 $(srcdir)/tests/torture/file_systems_test.py

faults-long: all
	$(MAKE) $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) NBDINETD_FAULTS_ALL=1 \
	  /usr/bin/python3 $(srcdir)/tests/system/failing_calls_test.py

# Leaks and bad accesses, with and without faults, in a build of its own.
memory_tests = $(unit_tests) $(protocol_tests) $(torture_tests) \
	tests/system/failing_calls_test.py
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
	  tests/torture/torture_test && \
	NBDINETD_FAULTS_SECONDS=$${NBDINETD_FAULTS_SECONDS:-120} \
	  /usr/bin/python3 $(srcdir)/tests/system/failing_calls_test.py

include $(top_srcdir)/tests/fuzz/fuzz.mk
