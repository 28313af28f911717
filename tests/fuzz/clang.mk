# Builds the fuzz targets with clang, in a folder of their own, beside whatever
# the tree is configured for. tests/fuzz/fuzz.mk calls it, and gives it
#   CLANG     the compiler
#   SRCDIR    the top of the sources
#   OUT       where to build
#   SOURCES   what the program is made of, but main.cc
#   FLAGS     what the compiler is to be told beside what stands here
#   LIBRARIES what to link
#   MODE      fuzz, or coverage: no sanitizers, and counts of lines
#   TARGETS   the names of the targets
#   WRAPPED_NEGOTIATION, WRAPPED_TRANSMISSION, WRAPPED_ENVIRONMENT
#             the system calls that are simulated for each

# Whose inputs are messages of NBD.
SPOKEN = negotiation transmission

instrument_fuzz = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# What guides libFuzzer: the ways through the program, not those through its
# checkers.
guide_fuzz = -fsanitize=fuzzer-no-link
link_fuzz = -fsanitize=fuzzer,address,undefined
instrument_coverage = -fprofile-instr-generate -fcoverage-mapping
link_coverage = -fprofile-instr-generate

CXXFLAGS = -std=c++20 -O2 -g -Wall -Wextra -MMD -MP $(instrument_$(MODE)) \
	-I$(SRCDIR)/src -I$(SRCDIR)/tests $(FLAGS)
wrap_negotiation = $(WRAPPED_NEGOTIATION:%=-Wl,--wrap=%)
wrap_transmission = $(WRAPPED_TRANSMISSION:%=-Wl,--wrap=%)
wrap_environment = $(WRAPPED_ENVIRONMENT:%=-Wl,--wrap=%)

library = $(patsubst %.cc,$(OUT)/%.o,$(filter %.cc,$(SOURCES)))
# What each target is made of beside its own file and the library. Workers are
# linked in place of the program's.
objects = $(patsubst %,$(OUT)/tests/%.o,$(1))
spoken = fuzz/input fuzz/messages fuzz/simulation support/wire
own_negotiation = $(call objects,$(spoken) fuzz/locks \
	fuzz/negotiation_checker)
own_transmission = $(call objects,$(spoken) fuzz/storage \
	fuzz/transmission_checker fuzz/workers)
own_environment = $(call objects,fuzz/descriptors)
own_option = $(call objects,support/wire)
own_command_line = $(own_option)
# libFuzzer calls it when it is there.
mutator = $(OUT)/tests/fuzz/mutator.o
main_coverage = $(OUT)/tests/fuzz/replay_main.o
suffix_fuzz = _fuzz
suffix_coverage = _replay
programs = $(TARGETS:%=$(OUT)/%$(suffix_$(MODE)))

all: $(programs)

$(OUT)/%.o: $(SRCDIR)/%.cc
	@mkdir -p $(@D)
	@echo "  CLANG    $@"; $(CLANG) $(CXXFLAGS) -c -o $@ $<
$(library): CXXFLAGS += $(guide_$(MODE))

$(OUT)/libnbdinetd.a: $(library)
	@rm -f $@
	@ar crs $@ $^

$(programs): $(OUT)/%$(suffix_$(MODE)): $(OUT)/tests/fuzz/%_fuzz.o $(main_$(MODE)) $(OUT)/libnbdinetd.a
	@echo "  CLANGLD  $@"; $(CLANG) $(instrument_$(MODE)) $(link_$(MODE)) $(wrap_$*) -o $@ \
	  $(filter %.o,$^) \
	  -Wl,--start-group $(OUT)/libnbdinetd.a $(LIBRARIES) -Wl,--end-group
$(SPOKEN:%=$(OUT)/%_fuzz): $(mutator)
$(foreach target,$(TARGETS),$(eval \
  $(OUT)/$(target)$(suffix_$(MODE)): $(own_$(target))))

-include $(wildcard $(OUT)/src/*.d $(OUT)/src/*/*.d $(OUT)/tests/*/*.d)
