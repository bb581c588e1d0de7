test "$(cat $DELIVERED/out/answer.txt)" = "2989.0 without 2 lines"
