# SPDX-License-Identifier: GPL-2.0
#
# Makes $(O)/$(name).iso, a CD that the BIOS of a bare machine boots, of the
# objects $(objs). Who includes this sets boot, the directory that it is in, and
# compiles with $(CFLAGS).

CC	:= $(if $(filter default,$(origin CC)),clang-19,$(CC))
LD	:= $(if $(filter default,$(origin LD)),ld.lld-19,$(LD))
OBJCOPY	?= llvm-objcopy-19
XORRISO	?= xorriso

CFLAGS	:= -m64 -ffreestanding -fno-pic -mcmodel=small -mno-red-zone -mgeneral-regs-only \
	   -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
	   -O2 -std=gnu11 -Wall -Wextra -Werror -I$(boot) -I$(boot)/../lib

boot_objs := $(addprefix $(O)/, boot.o bare.o)

$(O)/%.o: $(boot)/%.S $(boot)/layout.h | $(O)
	$(CC) $(CFLAGS) -c -o $@ $<

$(O)/bare.o: $(boot)/bare.c $(wildcard $(boot)/*.h) | $(O)
	$(CC) $(CFLAGS) -c -o $@ $<

$(O)/$(name).elf: $(boot)/link.ld $(boot_objs) $(objs)
	$(LD) -static -nostdlib -z max-page-size=4096 -T $(boot)/link.ld -o $@ $(boot_objs) $(objs)

# The BIOS loads a raw image, whole sectors of a CD.
$(O)/iso/$(name).img: $(O)/$(name).elf
	mkdir -p $(@D)
	$(OBJCOPY) -O binary $< $@
	truncate -s %2048 $@

$(O)/$(name).iso: $(O)/iso/$(name).img
	$(XORRISO) -as mkisofs -quiet -o $@.tmp -b $(name).img -no-emul-boot \
		-boot-load-size 4 -boot-info-table $(O)/iso
	mv $@.tmp $@

$(O):
	mkdir -p $@

clean:
	rm -rf $(O)/*.o $(O)/$(name).* $(O)/iso
