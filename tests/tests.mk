# The tests, all speaking TAP, run by 'make check'. See tests/README.md.

AM_TESTS_ENVIRONMENT = \
	NBDINETD='$(abs_top_builddir)/src/nbdinetd'; export NBDINETD; \
	NBDINETD_SRCDIR='$(abs_top_srcdir)'; export NBDINETD_SRCDIR; \
	NBDINETD_BUILDDIR='$(abs_top_builddir)'; export NBDINETD_BUILDDIR; \
	NBDINETD_TOOLS="$${NBDINETD_TOOLS:-$(abs_top_builddir)/.tools}"; \
	export NBDINETD_TOOLS;

TEST_EXTENSIONS = .py
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) \
	$(top_srcdir)/build-aux/tap-driver.sh
PY_LOG_DRIVER = $(LOG_DRIVER)
PY_LOG_COMPILER = /usr/bin/python3

TESTS = $(check_PROGRAMS_TESTS) $(python_tests)
check_PROGRAMS = $(check_PROGRAMS_TESTS)
check_PROGRAMS_TESTS =

python_tests =
EXTRA_DIST += $(python_tests)

if HAVE_GTEST
# Of a room's code, on bytes.
unit_tests =
check_PROGRAMS_TESTS += $(unit_tests)
endif

# Processes of a test live no longer than it, but a Makefile can't know that.
check-local: all
