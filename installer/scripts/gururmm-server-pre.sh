[ -z "$old" ] || mayFollow "$old"
[ "$action" = upgrade ] || notShadowed
