/* Made by sb3-asym $version: networks whose numbers lie in a block that the caller brings. */
#include <math.h>
#include <stdint.h>

$pointers

$functions
$networks
/* Take the numbers of a block, which must stay where it is while they are in use. */
void kernel_load(const unsigned char *block)
{
$assignments
}

/* y = outputs of a network. */
void kernel_run(int network, const float *x, float *y)
{
    switch (network) {
$cases
    }
}
