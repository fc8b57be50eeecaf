# SPDX-License-Identifier: GPL-2.0
#
# Makes $(O)/$(name).iso, a CD that the BIOS of a bare machine boots, of the
# objects $(objs). Who includes this sets boot, the directory that it is in, and
# the tools with their flags.

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
