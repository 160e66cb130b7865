#!/bin/sh
# The curl tour of the API: log in, make a contact and a script, place a call, watch it end.
#   examples/tour.sh [http://localhost:8000 [user [password]]]
set -eu
url=${1:-http://localhost:8000}
user=${2:-demo@example.com}
password=${3:-demo-password-1}

# As it is: some shells' echo makes a line break of \n.
show() { printf '%s\n' "$1"; }
# The first string member of that name in a JSON answer.
member() { grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }
api() { # api METHOD PATH [BODY]
    curl -sS -X "$1" "$url$2" -H "Authorization: Bearer $access" ${3:+-H 'Content-Type: application/json' -d "$3"}
}

access=$(curl -sS -X POST "$url/api/token/" -H 'Content-Type: application/json' \
    -d "{\"username\":\"$user\",\"password\":\"$password\"}" | member access)
[ -n "$access" ] || { echo "could not log in at $url as $user" >&2; exit 1; }

echo '--- a contact'
contact=$(api POST /api/contacts/ '{"name":"Tour Guide","phone":"+12025550100","email":"guide@example.com"}')
show "$contact"
contact_id=$(show "$contact" | member id)

echo '--- a script'
script=$(api POST /api/scripts/ '{"name":"Tour","first_message":"Hi, shall we look around?","call_goals":["Show the API"]}')
show "$script"
script_id=$(show "$script" | member id)

echo '--- a call'
call=$(api POST /api/calls/ "{\"contact_id\":\"$contact_id\",\"script_id\":\"$script_id\",\"metadata\":{\"tour\":true}}")
show "$call"
call_id=$(show "$call" | member id)

echo '--- until it has ended'
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    call=$(api GET "/api/calls/$call_id/")
    status=$(show "$call" | member status)
    echo "$status"
    case $status in completed | failed | cancelled | no-answer | busy | voicemail) break ;; esac
    sleep 1
done
show "$call"

echo '--- its timeline, all calls, the dashboard'
api GET "/api/calls/$call_id/events/"; echo
api GET '/api/calls/?page=1&limit=5'; echo
api GET /api/calls/pending-count/; echo
api GET /api/calls/stats/; echo

echo '--- tidying up'
api DELETE "/api/scripts/$script_id/"; echo
api DELETE "/api/contacts/$contact_id/"; echo
