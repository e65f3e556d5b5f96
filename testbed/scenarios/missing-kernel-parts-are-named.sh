# shellcheck shell=bash
# proves: a kernel part that is missing ends lbd at start with the name of the module, and leaves nothing behind
#
# topology: dsr:servers=1
# needs: modules
# limit_s: 320

web_config lb201 gre > lb201.toml
finally 'rm -f /etc/modprobe.d/testbed-missing.conf'
for module in ip_gre nfnetlink_queue; do
    printf 'install %s /bin/false\n' "$module" nft_queue > /etc/modprobe.d/testbed-missing.conf
    # What uses it must go first; tunnel devices keep their module until their namespace is gone.
    gone() { modprobe --remove nft_queue "$module" 2>/dev/null; ! grep -q "^$module " /proc/modules; }
    # Connections of the scenario before may keep its namespaces, and so its tunnels, for a while.
    wait_until 120 "$module is not loaded" gone
    kernel_state lb201 > before.txt
    expect_refused "without $module" "$module" in_ns lb201 timeout 60 lbd --config lb201.toml --shm lb201
    kernel_state lb201 > after.txt
    expect_same "nothing was left behind" before.txt after.txt
done
