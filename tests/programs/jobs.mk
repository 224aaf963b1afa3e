# Two recursive makes with two jobs each, for two tokens in all (make -j2).
JOBS := left-one left-two right-one right-two
all: left right
left right:
	+$(MAKE) -s -f $(firstword $(MAKEFILE_LIST)) $@-one $@-two
$(JOBS):
	sleep $(RUNG_LAB_SECONDS)
.PHONY: all left right $(JOBS)
