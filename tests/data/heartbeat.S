# A boot sector that answers QEMU's balloon device, as a kernel's driver does, until a letter comes from the serial port.
# QEMU gives the device PCI slot 3. Virtio 1.2, section 4.1.4.8 has the legacy registers, and 2.7.2 the queue's layout.

.intel_syntax noprefix
.code16

.set QUEUE, 0x10000                     # physical, at the start of a page
.set STATS_QUEUE, 2
.set ASKED, 0x80001800                  # bus 0, slot 3, function 0 of PCI's configuration
.set SERIAL, 0x3f8

.globl _start
_start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        mov     ax, QUEUE >> 4
        mov     es, ax                  # the queue's segment

        mov     eax, ASKED + 0x04       # its command register
        call    ask
        in      eax, dx
        or      al, 7                   # ports, memory, bus master
        out     dx, eax
        mov     eax, ASKED + 0x10       # its first base address: ports
        call    ask
        in      eax, dx
        and     al, 0xfc
        mov     bp, ax

        mov     al, 3                   # ACKNOWLEDGE, DRIVER
        call    status
        mov     dx, bp
        add     dx, 4                   # the driver's features
        mov     eax, 2                  # VIRTIO_BALLOON_F_STATS_VQ
        out     dx, eax
        lea     dx, [bp + 14]           # the queue's number
        mov     ax, STATS_QUEUE
        out     dx, ax
        sub     dx, 2                   # its size
        in      ax, dx
        shl     ax, 4                   # 16 bytes a descriptor
        mov     si, ax                  # the available ring
        add     ax, 6 + 0xfff           # with its entries, below a page for up to 170 descriptors
        and     ax, 0xf000
        mov     di, ax                  # the used ring

        mov     dword ptr es:[0], offset answer
        mov     dword ptr es:[4], 0
        mov     dword ptr es:[8], answer_end - answer
        mov     dword ptr es:[12], 0
        sub     dx, 4                   # the queue's page
        mov     eax, QUEUE >> 12
        out     dx, eax
        mov     al, 7                   # and DRIVER_OK
        call    status

        mov     word ptr es:[si], 1     # VIRTQ_AVAIL_F_NO_INTERRUPT

give:   inc     word ptr es:[si + 2]    # descriptor 0 is in each entry
        lea     dx, [bp + 16]           # the queue that has news
        mov     ax, STATS_QUEUE
        out     dx, ax

await:  mov     dx, SERIAL + 5
        in      al, dx
        test    al, 1
        jnz     told
        mov     ax, es:[di + 2]         # QEMU returns the buffer when it asks again
        cmp     ax, es:[si + 2]
        je      give
        sti
        hlt                             # until the timer's next tick
        jmp     await

told:   mov     dx, SERIAL
        in      al, dx
        cmp     al, 'i'
        je      idle
        cmp     al, 'k'
        je      spins_on
        cmp     al, 's'
        je      spins_off
halted: cli
        hlt
        jmp     halted
idle:   sti
        hlt
        jmp     idle
spins_on:
        sti
1:      jmp     1b
spins_off:
        cli
1:      jmp     1b

ask:    mov     dx, 0xcf8
        out     dx, eax
        mov     dx, 0xcfc
        ret

status: lea     dx, [bp + 18]
        out     dx, al
        ret

answer: .short  5                       # VIRTIO_BALLOON_S_MEMTOT
        .quad   256 << 20
        .short  6                       # VIRTIO_BALLOON_S_AVAIL
        .quad   128 << 20
answer_end:

        .org    510
        .short  0xaa55
