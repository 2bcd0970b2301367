# The test kernel: one freestanding ELF.
guest:
.PHONY: guest
