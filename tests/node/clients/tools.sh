# Looks up names with programs for the command line: busybox (nslookup), dig, kdig, which has no search list, and
# c-ares' adig, whose path is in ADIG.
tool=$1
shift
case $tool in
dig) ask="dig +search +short" ;;
# It waits for servers that refuse.
kdig) ask="kdig +short +time=1 +retry=0" ;;
esac
# Data only; errors when there is no data.
quietly() {
  output=$($ask "$@")
  data=$(printf '%s\n' "$output" | grep -v '^;;\|^$')
  if [ -n "$data" ]; then printf '%s\n' "$data"; else printf '%s\n' "$output" | grep 'ERROR\|no servers\|timed out'; fi
}
# Like dig's short form, in lower case: with the option +dns0x20 the letters of the question change by chance.
adig() {
  output=$("$ADIG" +noall +answer +comments +search +dns0x20 "$@")
  data=$(printf '%s\n' "$output" | sed -n 's/^[^;][^\t ]*[\t ]*[0-9]*[\t ]*IN[\t ]*\(A\|AAAA\|SRV\|PTR\)[\t ]*//p')
  if [ -n "$data" ]; then
    printf '%s\n' "$data" | tr A-Z a-z
  else
    printf '%s\n' "$output" | grep 'Got answer' | grep -i 'contact\|fail\|refused\|misformatted'
  fi
}
sorted() { sort -u | tr '\n' ' ' | sed 's/ $//'; }
for question in "$@"; do
  kind=${question%%=*} name=${question#*=}
  case $tool-$kind in
  busybox-host) text=$(busybox nslookup "$name" 2>&1 | sed '1,/^Address/d' | sed -n 's/^Address[ 0-9]*: //p' | sorted) ;;
  busybox-srv)
    text=$(busybox nslookup -type=srv "$name" 2>&1 | sed -n 's/.*service = [0-9]* [0-9]* \([0-9]*\) \(.*\)/\2:\1/p' | sorted)
    ;;
  busybox-ptr) text=$(busybox nslookup "$name" 2>&1 | sed -n 's/.*name = //p' | sorted) ;;
  adig-host) text=$( (adig "$name" A; adig "$name" AAAA) | sorted) ;;
  adig-srv) text=$(adig "$name" SRV | sed 's/^[0-9]* [0-9]* \([0-9]*\) \(.*\)\.$/\2:\1/' | sorted) ;;
  adig-ptr) text=$(adig -x "$name" | sed 's/\.$//' | sorted) ;;
  *-host) text=$(quietly "$name" A "$name" AAAA | grep -v '\.$' | sorted) ;;
  *-srv) text=$(quietly "$name" SRV | sed -n 's/^[0-9]* [0-9]* \([0-9]*\) \(.*\)\.$/\2:\1/p' | sorted) ;;
  *-ptr) text=$(quietly -x "$name" | sed 's/\.$//' | sorted) ;;
  esac
  case $text in
  '') text=- ;;
  *';;'*) text="!$text" ;;
  esac
  printf '%s\t%s\n' "$question" "$text"
done
