# nginx's resolver: a proxy whose upstream is the name in the URL. Its log has the addresses that it tried.
folder=$(mktemp -d)
trap 'kill $nginx; wait $nginx; rm -rf "$folder"' EXIT
chmod 755 "$folder"
servers=$(sed -n 's/^nameserver //p' /etc/resolv.conf | tr '\n' ' ')
cat >"$folder/nginx.conf" <<END
daemon off;
master_process off;
pid $folder/pid;
error_log $folder/error.log;
events {}
http {
  resolver $servers valid=1s;
  log_format found '\$upstream_addr';
  access_log $folder/access.log found;
  client_body_temp_path $folder/a; proxy_temp_path $folder/b; fastcgi_temp_path $folder/c;
  uwsgi_temp_path $folder/d; scgi_temp_path $folder/e;
  proxy_connect_timeout 10ms;
  server {
    listen 127.0.0.1:8099;
    location / { proxy_pass http://\$arg_name; }
  }
}
END
nginx -c "$folder/nginx.conf" 2>/dev/null &
nginx=$!
until [ -s "$folder/pid" ]; do sleep 0.02; done
for question in "$@"; do
  : >"$folder/access.log"
  busybox wget -q -O /dev/null "http://127.0.0.1:8099/?name=${question#*=}" 2>/dev/null || :
  text=$(tr ',' '\n' <"$folder/access.log" | sed 's/^ *//; s/:80$//; s/^\[//; s/\]$//' | sort -u | tr '\n' ' ' | sed 's/ $//')
  printf '%s\t%s\n' "$question" "${text:--}"
done
