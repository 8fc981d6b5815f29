/* Starts a program on a Cortex-M4F that QEMU emulates, and lends it a clock that counts instructions as nanoseconds.
 * With -icount shift=6 an instruction takes 64 ns, and SysTick, at 25 MHz, ticks every 40 ns: 8 ticks are 5 instructions. */
#include <stdint.h>
#include <time.h>

#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define SYST_MAX 0xFFFFFFu

void stack_top(void); /* an address only, in the type of the vectors */
void _mainCRTStartup(void); /* of newlib */
void reset_handler(void);
int clock_gettime(clockid_t clock, struct timespec *time);

static uint32_t last_ticks, overhead;
static uint64_t total_ticks;

/* The counter runs down and wraps after 10 million instructions, so it must be read more often than that. */
static uint32_t count(void)
{
    uint32_t ticks = SYST_CVR;
    uint32_t passed = (last_ticks - ticks) & SYST_MAX;
    last_ticks = ticks;
    return passed;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    uint64_t instructions;
    (void)clock;
    total_ticks += count();
    total_ticks -= total_ticks < overhead ? total_ticks : overhead;
    instructions = total_ticks * 5 / 8;
    time->tv_sec = (time_t)(instructions / 1000000000u);
    time->tv_nsec = (long)(instructions % 1000000000u);
    return 0;
}

void reset_handler(void)
{
    CPACR |= 0xFu << 20; /* the floating-point unit */
    __asm volatile("dsb\n isb");
    SYST_RVR = SYST_MAX;
    SYST_CVR = 0;
    SYST_CSR = 5; /* on, with the processor's clock, without interrupts */
    _mainCRTStartup();
}

/* What clock_gettime itself takes, between two readings; called before main. */
__attribute__((constructor)) static void calibrate(void)
{
    struct timespec time;
    uint64_t before;
    clock_gettime(0, &time);
    before = total_ticks;
    clock_gettime(0, &time);
    overhead = (uint32_t)(total_ticks - before);
}

static void stop(void)
{
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    stack_top, reset_handler, stop, stop, stop, stop, stop,
};
