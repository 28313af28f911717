# The packages of distributions, built from what 'make dist' packs: dist/*.deb and
# dist/*.rpm. ./quickstart packages installs what that needs.

package_tests = tests/packages/contents_test.py tests/packages/installation_test.py
EXTRA_DIST += packaging/debs packaging/nbdinetd.spec packaging/reproducible \
	debian/README.Debian debian/README.source debian/changelog \
	debian/control debian/copyright debian/nbdinetd.lintian-overrides \
	debian/nbdinetd.postinst debian/nbdinetd.prerm debian/needrestart.conf \
	debian/rules debian/source/format debian/tests/command \
	debian/tests/control debian/tests/units $(package_tests)

.PHONY: debs rpm check-packages check-reproducible
debs: dist-xz
	rm -f dist/*.deb dist/*.changes dist/*.buildinfo
	$(srcdir)/packaging/debs $(distdir).tar.xz dist

# --nodeps: on Debian, rpm knows nothing of the packages that are installed.
rpm: dist-xz
	rm -f dist/*.rpm
	rpmbuild -tb --nodeps --define '_topdir $(abs_builddir)/build-rpm' \
	  --define '_rpmdir $(abs_builddir)/dist' \
	  --define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
	  $(distdir).tar.xz
	rm -rf build-rpm

# Installs, upgrades, removes and purges dist/*.deb under a systemd that is
# process 1.
check-packages:
	$(MAKE) check TESTS='$(package_tests)' check_PROGRAMS= check_LIBRARIES=

# Another build, which differs in all that must not matter, gives dist/*.deb.
check-reproducible: dist-xz
	$(srcdir)/packaging/reproducible $(distdir).tar.xz dist
