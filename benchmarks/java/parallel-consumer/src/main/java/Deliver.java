import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.reactor.ReactorProcessor;
import io.confluent.parallelconsumer.vertx.VertxParallelEoSStreamProcessor;
import io.vertx.core.buffer.Buffer;
import io.vertx.ext.web.client.predicate.ResponsePredicate;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import reactor.core.publisher.Mono;
import reactor.core.scheduler.Schedulers;

/** Confluent's Parallel Consumer in key order, with an asynchronous HTTP client: the argument is `vertx` or `jdk`. */
public final class Deliver {
  private static final Duration RETRY = Duration.ofMillis(50);

  public static void main(String[] arguments) throws Exception {
    var environment = System.getenv();
    var events = new Events(Path.of(environment.get("SCHEMA")));
    var target = URI.create(environment.get("TARGET_URL") + "/events");
    int concurrency = Integer.parseInt(environment.get("CONCURRENCY"));

    var properties = new Properties();
    properties.put("bootstrap.servers", environment.get("BOOTSTRAP"));
    properties.put("group.id", environment.get("GROUP"));
    properties.put("auto.offset.reset", "earliest");
    properties.put("enable.auto.commit", "false");
    var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new ByteArrayDeserializer());
    var options =
        ParallelConsumerOptions.<String, byte[]>builder()
            .ordering(ProcessingOrder.KEY)
            .maxConcurrency(concurrency)
            .consumer(consumer)
            .defaultMessageRetryDelay(RETRY)
            .build();
    var topics = List.of(environment.get("TOPIC"));
    if (arguments[0].equals("vertx")) {
      var processor = new VertxParallelEoSStreamProcessor<String, byte[]>(options);
      processor.subscribe(topics);
      processor.vertxHttpWebClient(
          (client, context) -> {
            var record = context.getSingleConsumerRecord();
            return client
                .post(target.getPort(), target.getHost(), target.getPath())
                .putHeader("Content-Type", "application/json")
                .putHeader("Idempotency-Key", keyOf(record))
                .expect(ResponsePredicate.SC_SUCCESS)
                .sendBuffer(Buffer.buffer(events.bodyOf(record.value())));
          },
          sent -> {});
    } else {
      var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
      var processor = new ReactorProcessor<>(options, Schedulers::parallel);
      processor.subscribe(topics);
      processor.react(
          context -> Mono.fromFuture(() -> post(client, target, events, context.getSingleConsumerRecord())));
    }
    Thread.currentThread().join();
  }

  private static CompletableFuture<Integer> post(
      HttpClient client, URI target, Events events, ConsumerRecord<String, byte[]> record) {
    var request =
        HttpRequest.newBuilder(target)
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", keyOf(record))
            .POST(HttpRequest.BodyPublishers.ofByteArray(events.bodyOf(record.value())))
            .build();
    return client
        .sendAsync(request, HttpResponse.BodyHandlers.ofByteArray())
        .thenApply(
            answer -> {
              if (answer.statusCode() / 100 != 2) {
                throw new IllegalStateException("answered " + answer.statusCode());
              }
              return answer.statusCode(); // an empty Mono would never complete the record
            });
  }

  private static String keyOf(ConsumerRecord<String, byte[]> record) {
    return record.partition() + "-" + record.offset();
  }
}
